"""`mix-core train`: the same command as `python -m mix_core.train`, which reads its own arguments."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    @app.command(
        "train",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
    )
    def train(context: typer.Context) -> None:
        """Train: CONFIG or --recipe NAME, then --key value or key=value; --help lists every key."""
        from mix_core.train import run

        run(context.args)
