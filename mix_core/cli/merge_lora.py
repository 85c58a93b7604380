"""`mix-core merge-lora`: a model with its adapter made one, and proof that it is."""

from __future__ import annotations

from typing import Annotated

import typer

from mix_core.cli import model_options as options


def register(app: typer.Typer) -> None:
    @app.command("merge-lora")
    def merge_lora(
        model: Annotated[
            str | None,
            typer.Option(
                "--model",
                "--model_name_or_path",
                help="Model folder or hub name. Default: the one that the adapter names.",
            ),
        ] = None,
        lora: Annotated[
            str, typer.Option("--lora", "--lora_path", help="Adapter's folder, or the run that trained it.")
        ] = ...,  # type: ignore[assignment]
        out: Annotated[
            str, typer.Option("--out", "--merge_model_path", help="Folder to write; it must not be there.")
        ] = ...,  # type: ignore[assignment]
        device: options.Device = None,
        simulate: options.Simulate = False,
        kernels: options.Kernels = "auto",
        dtype: Annotated[
            str | None, typer.Option("--dtype", help="Of the weights to write. Default: the model's own.")
        ] = None,
    ) -> None:
        """Write the model with an adapter merged into its weights, and compare their logits."""
        from mix_core.inference.merge import merge

        report = merge(model, lora, out, dtype, **options.loading(device, simulate, kernels, None, None))
        typer.echo(report.text())
