"""`mix-core data`: makes the bundled sample data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    data = typer.Typer(help="Make sample data.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(data, name="data")

    @data.callback()
    def group() -> None:
        """Make sample data."""

    @data.command("digits")
    def digits(
        out: Annotated[Path, typer.Option(help="Folder to write: images/, train.json, eval.json.")],
        seed: Annotated[int, typer.Option(min=0, help="Another seed: other pictures, same scans.")] = 0,
    ) -> None:
        """Handwritten digits as three tasks: name the digit, read the number, find the 7."""
        from mix_core.data import digits as sample

        sample.write_digits(out, seed=seed)
        for split, tasks in sample.COUNTS.items():
            counts = ", ".join(f"{count} {task}" for task, count in tasks.items())
            typer.echo(f"{out / f'{split}.json'}: {counts}")
        typer.echo(f"source and licence: {out / 'ATTRIBUTION'}")
