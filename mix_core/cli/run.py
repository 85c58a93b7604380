"""`mix-core run`: any program, mix-core's or not, with a device's environment."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    @app.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
    def run(
        command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="Program and its arguments.")],
        device: str | None = typer.Option(None, "--device", help="Device, for example npu or npu:1."),
        workload: str = typer.Option("understanding", help="understanding or generation."),
        model: str | None = typer.Option(None, help="Model family, for example qwen2_5_vl."),
        simulate: bool = typer.Option(False, "--simulate", help="Run on a simulated device."),
    ) -> None:
        """Replace this process by CMD with the process and import settings of a device in its environment."""
        from mix_core.device import launch
        from mix_core.device.explanation import parse_workload

        launch.replace_process(command, device, parse_workload(workload, model, simulate))
