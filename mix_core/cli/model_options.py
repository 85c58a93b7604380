"""The options that `infer` and `chat` share: which model, where it runs, and how it answers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mix_core.errors import ConfigError

Model = Annotated[
    str,
    typer.Option(
        *("--model", "--model_name_or_path", "--model_path"), help="Model folder, checkpoint or hub name."
    ),
]
Device = Annotated[str | None, typer.Option("--device", help="Device, for example npu or npu:1.")]
Simulate = Annotated[bool, typer.Option("--simulate", help="Run on a simulated device.")]
Kernels = Annotated[str, typer.Option("--kernels", help="auto, or reference: none of the device's own.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
Weights = Annotated[
    str | None, typer.Option("--weights", help="int8: the decoder's weights in 8 bits, for faster answers.")
]
Lora = Annotated[
    list[str] | None,
    typer.Option("--lora", help="Adapter: FOLDER or NAME=FOLDER; repeatable, the first is used."),
]
Seed = Annotated[int, typer.Option("--seed", help="Of the draws at a temperature above 0.")]
MaxNewTokens = Annotated[int, typer.Option("--max_new_tokens", help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option("--temperature", help="0 is greedy.")]
TopK = Annotated[int, typer.Option("--top_k", help="Draw from the k most likely tokens; 0: all.")]
TopP = Annotated[float, typer.Option("--top_p", help="Draw from the most likely part; 1: all.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="End before this text; repeatable.")]


def loading(
    device: str | None,
    simulate: bool,
    kernels: str,
    dtype: str | None,
    weights: str | None,
    lora: list[str] | None = None,
) -> dict[str, Any]:
    """Keywords of `mix_core.load`. Raises ConfigError for other kernels than the two there are."""
    if kernels not in ("auto", "reference"):
        raise ConfigError(f"--kernels is {kernels}, expected auto or reference")
    return {
        "device": device,
        "dtype": dtype,
        "weights": weights,
        "lora": lora,
        "simulate": simulate or None,
        "kernels": kernels,
        "allow_reexec": True,
    }


def answering(
    max_new_tokens: int, temperature: float, top_k: int, top_p: float, seed: int, stop: list[str] | None
) -> dict[str, Any]:
    """Keywords of `Engine.generate`."""
    return {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "stop": tuple(stop or ()),
    }
