"""`mix-core doctor`: examine a device and this machine; exit code 0 only when the device is usable."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    @app.command("doctor")
    def doctor(
        device: str | None = typer.Argument(
            None, help="Device to examine; by default the one auto would take."
        ),
        as_json: bool = typer.Option(False, "--json", help="Print a JSON object."),
    ) -> None:
        """Check versions, compiler, shared memory, the plugin's probe and checks; list operators' kernels."""
        import json

        from mix_core.device import listing
        from mix_core.device.doctor import examine
        from mix_core.errors import EXIT_NOT_USABLE

        report = examine(device)
        if as_json:
            typer.echo(json.dumps(report.to_json(), indent=2))
        else:
            width = max(len(finding.name) for finding in report.findings)
            for finding in report.findings:
                typer.echo(f"{finding.state:8} {finding.name:{width}}  {finding.detail}")
            if report.operators:
                for line in listing.table(list(report.operators), ("operator", "dtype", "runs", "reason")):
                    typer.echo(line)
            typer.echo(f"{report.device} is {'usable' if report.usable else 'not usable'}")
        if not report.usable:
            raise typer.Exit(EXIT_NOT_USABLE)
