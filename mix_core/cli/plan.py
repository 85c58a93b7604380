"""`mix-core plan`: how to spread a run over devices, what it needs and how fast it goes, on paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mix_core.errors import BadInputError

if TYPE_CHECKING:
    from mix_core.planning.search import Found, Plan, Wanted

Text = str | None
Model = Annotated[str, typer.Option(help="A published size (qwen2_5_vl-7b), or a model folder.")]
Devices = Annotated[int, typer.Option(help="Devices of the job, all hosts together.")]
Memory = Annotated[Text, typer.Option(help="Of one device: 64GiB. Default: its profile's.")]
Device = Annotated[Text, typer.Option(help="Device whose profile gives figures, for example npu.")]
Rows = Annotated[int, typer.Option("--global_batch", "--global_batch_size", help="Rows of a step.")]
Tiles = Annotated[float | None, typer.Option(help="Picture tiles in a row. Default: one per 2048 tokens.")]
Level = Annotated[str, typer.Option("--fp16_opt_level", help="O1 or O2.")]
Vit = Annotated[bool, typer.Option("--freeze_vit", help="The tower does not learn.")]
Mlp = Annotated[bool, typer.Option("--freeze_mlp", help="The projector does not learn.")]
Llm = Annotated[bool, typer.Option("--freeze_llm", help="The decoder does not learn.")]
Rank = Annotated[int, typer.Option("--lora_rank", help="Of adapters on the decoder; 0: none.")]
VisionSplit = Annotated[Text, typer.Option("--vision_split", help="Tower layers by stage: 32,0.")]
DecoderSplit = Annotated[Text, typer.Option("--decoder_split", help="Decoder layers by stage: 4,24.")]
Overlap = Annotated[bool, typer.Option("--overlap", help="Count sums that computing can hide as hidden.")]
InBackward = Annotated[
    bool, typer.Option("--optimizer_in_backward", help="Parameters move going back, on one device.")
]
Figures = Annotated[
    list[str] | None, typer.Option("--figure", help="A figure: peak_flops=312e12; repeatable.")
]
Out = Annotated[Text, typer.Option(help="Write the first plan as a configuration (.json).")]


def register(app: typer.Typer) -> None:
    @app.command("plan")
    def plan(
        model: Model,
        devices: Devices,
        memory: Memory = None,
        device: Device = None,
        seq: Annotated[int, typer.Option(help="Tokens of a row, pictures included.")] = 2048,
        global_batch: Rows = 256,
        tiles: Tiles = None,
        dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
        level: Level = "O2",
        recompute: Annotated[str, typer.Option(help="auto, none, selective or full.")] = "auto",
        freeze_vit: Vit = False,
        freeze_mlp: Mlp = False,
        freeze_llm: Llm = False,
        lora_rank: Rank = 0,
        vision_split: VisionSplit = None,
        decoder_split: DecoderSplit = None,
        overlap: Overlap = False,
        optimizer_in_backward: InBackward = False,
        figure: Figures = None,
        top: Annotated[int, typer.Option(help="Plans to print.")] = 5,
        out: Out = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Find the layouts of a training run that fit, the fastest first, and say why others do not."""
        from mix_core.planning.request import Asked

        parts = {"tower": freeze_vit, "projector": freeze_mlp, "decoder": freeze_llm}
        asked = Asked(
            model=model,
            devices=devices,
            memory=memory,
            device=device,
            seq=seq,
            global_batch=global_batch,
            tiles=tiles,
            dtype=dtype,
            fp16_opt_level=level,
            recompute=recompute,
            frozen=[part for part, is_frozen in parts.items() if is_frozen],
            lora_rank=lora_rank,
            vision_split=vision_split,
            decoder_split=decoder_split,
            overlap=overlap,
            optimizer_in_backward=optimizer_in_backward,
            figures=figure or (),
        )
        answer(asked, top, out, as_json)


def answer(asked: Any, top: int, out: str | None, as_json: bool) -> None:
    """Search, print, and write a configuration where one is asked for."""
    from mix_core.planning import written
    from mix_core.planning.search import search

    if top < 1:
        raise BadInputError(f"--top is {top}; expected 1 or more")
    if out is not None and not out.endswith(".json"):
        raise BadInputError(f"--out is {out!r}; expected a name that ends in .json")
    wanted = asked.wanted()
    found = search(wanted)
    shown = written.best_of_each(found.plans, top)
    _print(found, shown, wanted, asked.model, as_json)
    if not found.plans:
        raise BadInputError(written.nothing_fits(found, wanted))
    if out is not None:
        folder = asked.model if Path(asked.model).is_dir() else None
        keys = written.keys_of(shown[0], wanted, asked.dtype, asked.fp16_opt_level, folder)
        _write(out, keys)


def _print(found: Found, shown: list[Plan], wanted: Wanted, model: str, as_json: bool) -> None:
    import json

    from mix_core.device import listing
    from mix_core.planning import written

    if as_json:
        typer.echo(json.dumps(written.as_json(found, shown, wanted), indent=2))
        return
    typer.echo(
        f"{model}: {wanted.outline.parameters / 1e9:.2f} billion parameters; {wanted.devices} devices, rows "
        f"of {wanted.sequence} tokens with {wanted.tiles:g} picture tiles, {wanted.batch} a step"
    )
    typer.echo(f"{found.seen:,} layouts reckoned, {len(found.plans):,} fit")
    if shown:
        for line in listing.table([written.row(plan, wanted) for plan in shown], written.COLUMNS):
            typer.echo(line)
        for line in written.details(shown[0]):
            typer.echo(f"first plan: {line}")
    for line in written.refusals(found, wanted):
        typer.echo(f"not: {line}")
    for line in written.figures(wanted):
        typer.echo(f"figure: {line}")


def _write(out: str, keys: dict[str, Any]) -> None:
    import json

    from mix_core.planning import written

    taken, refused = written.taken_now(keys)
    try:
        Path(out).write_text(json.dumps(taken, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"cannot write {out}: {error.strerror}") from error
    typer.echo(f"wrote {out}; add dataset and output_dir", err=True)
    if refused:
        typer.echo(f"not built in training yet: {', '.join(refused)}", err=True)
