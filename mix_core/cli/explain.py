"""`mix-core explain`: every setting that a device makes, why, from whom, and when it takes effect."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    @app.command("explain")
    def explain(
        device: str = typer.Argument(..., help="Device to explain, for example npu or cpu."),
        workload: str = typer.Option("understanding", help="understanding or generation."),
        model: str | None = typer.Option(None, help="Model family, for example qwen2_5_vl."),
        simulate: bool = typer.Option(False, "--simulate", help="As on a simulated device."),
        as_json: bool = typer.Option(False, "--json", help="Print a JSON list."),
    ) -> None:
        """Show the final settings of a device; it need not be present."""
        import json

        from mix_core.device import listing
        from mix_core.device.explanation import explain_device, parse_workload

        explained = explain_device(device, parse_workload(workload, model, simulate))
        if as_json:
            typer.echo(json.dumps([row.to_json() for row in explained.rows], indent=2))
        else:
            columns = ("name", "value", "stage", "kind", "source", "reason")
            for line in listing.table([row.to_json() for row in explained.rows], columns):
                typer.echo(line)
        for note in explained.notes:
            typer.echo(f"mix-core: {note}", err=True)
