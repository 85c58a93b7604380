"""`mix-core verify`: whether a device computes your own model as the CPU does."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    @app.command("verify")
    def verify(
        model: str = typer.Option(..., "--model", help="Model folder, training checkpoint or hub name."),
        device: str | None = typer.Option(None, "--device", help="Device, for example npu or npu:1."),
        simulate: bool = typer.Option(False, "--simulate", help="Run on a simulated device."),
        dtype: str = typer.Option(
            "float32", "--dtype", help="float32; bfloat16 or float16: mixed precision."
        ),
        steps: int = typer.Option(20, "--steps", help="Training steps to compare."),
    ) -> None:
        """Compare logits and a short training with the CPU in float32: 0 they agree, 1 they do not."""
        import os

        from mix_core.conformance.verify import verify as run
        from mix_core.device import choice
        from mix_core.errors import EXIT_NOT_USABLE, BadInputError

        name = device or os.environ.get(choice.VARIABLE)
        if not name:
            raise BadInputError(
                "no device: name the one to verify with --device; `mix-core devices` lists them"
            )
        result, path = run(model, name, simulated=simulate, dtype=dtype, steps=steps)
        logits, losses = result["logits_distance"], result["loss_distance"]
        typer.echo(f"{name}, {dtype}: logits within {logits:.1e} of the CPU's")
        typer.echo(f"losses of {steps} steps within {losses:.2%}")
        for problem in result["problems"]:
            typer.echo(f"differs: {problem}")
        if not result["ok"]:
            typer.echo(f"first layer that differs: {result['first_layer'] or 'none, only training differs'}")
        typer.echo(f"{'agrees' if result['ok'] else 'does not agree'}; wrote {path}")
        if not result["ok"]:
            raise typer.Exit(EXIT_NOT_USABLE)
