"""`mix-core build`: compile the C++ operators ahead of time, where the first run would do it."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    @app.command("build")
    def build(
        simulator: bool = typer.Option(False, "--simulator", help="Build the simulated device too."),
        as_json: bool = typer.Option(False, "--json", help="Print a JSON list."),
    ) -> None:
        """Build the CPU operators into the cache; what is there already is not built again."""
        import json

        from mix_core.device.ahead import build_all

        rows = []
        for built in build_all(simulator=simulator):
            rows.append(built.to_json())
            if not as_json:
                typer.echo(built.line())
        if as_json:
            typer.echo(json.dumps(rows, indent=2))
