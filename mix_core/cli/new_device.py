"""`mix-core new-device`: write a device plugin to start from."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    @app.command("new-device")
    def new_device(
        name: str = typer.Argument(..., help="What users will type after --device, for example acme."),
        from_custom_device: str | None = typer.Option(
            None, "--from-custom-device", help="Type of an installed custom device of Paddle to serve."
        ),
    ) -> None:
        """Write ./mix_device_NAME, a device plugin that installs and passes conformance when simulated."""
        import os
        from pathlib import Path

        from mix_core.scaffold.custom_device import find_custom_device
        from mix_core.scaffold.new_device import check_name, write_device

        check_name(name)  # before a library is loaded, which takes seconds
        custom = find_custom_device(from_custom_device, os.environ) if from_custom_device else None
        files = write_device(name, Path.cwd(), custom)
        for path in files:
            typer.echo(f"wrote {path.relative_to(Path.cwd())}")
        if custom is not None:
            typer.echo(f"{len(custom.operators)} kernels of {custom.library} are in operators.json")
        typer.echo(f"next: pip install -e ./mix_device_{name}")
        typer.echo(f"      mix-core conformance --device {name} --simulate --level 1")
