"""`mix-core devices`: what is installed and what of it is usable. Answers without importing paddle."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    @app.command("devices")
    def devices(as_json: bool = typer.Option(False, "--json", help="Print a JSON list.")) -> None:
        """List the installed device plugins and the state of their devices."""
        import json

        from mix_core.device import listing

        rows = listing.list_devices()
        if as_json:
            typer.echo(json.dumps(rows, indent=2))
            return
        for line in listing.table(
            rows, ("name", "state", "priority", "vendor", "distribution", "version", "reason")
        ):
            typer.echo(line)
