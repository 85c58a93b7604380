"""`mix-core convert`: weights of other tools to and from the published layout."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from mix_core.errors import ConfigError


def register(app: typer.Typer) -> None:
    @app.command("convert")
    def convert(
        source: Annotated[str, typer.Argument(help="Folder to read.")],
        target: Annotated[str, typer.Argument(help="New folder to write.")],
        to: Annotated[str, typer.Option("--to", help="published, paddle or mindspeed-mm.")] = "published",
        from_: Annotated[
            str | None, typer.Option("--from", help="The same; what the files look like, if not given.")
        ] = None,
        base: Annotated[
            str | None,
            typer.Option("--base", help="Folder with config.json, and with weights that the source lacks."),
        ] = None,
        llm_pp_layers: Annotated[
            str | None, typer.Option("--llm_pp_layers", help="Decoder layers of each stage: [1,10,10,7].")
        ] = None,
        vit_pp_layers: Annotated[
            str | None, typer.Option("--vit_pp_layers", help="Vision layers of each stage: [32,0,0,0].")
        ] = None,
        tp_size: Annotated[int | None, typer.Option("--tp_size", help="Tensor-parallel ranks.")] = None,
        max_shard_size: Annotated[
            str | None, typer.Option("--max_shard_size", help="Greatest file of weights: 5GB, 500MB.")
        ] = None,
        safe_serialization: Annotated[
            bool, typer.Option("--safe_serialization", help="With --to paddle: safetensors, not .pdparams.")
        ] = False,
    ) -> None:
        """Bring weights into another layout; what was written is read again and compared bit for bit.

        paddle: PaddleNLP's and PaddleMIX's .pdparams or safetensors. mindspeed-mm: release/mp_rank_*/*.pt.
        """
        import mix_core.convert.run as conversion

        for name, layout in (("--to", to), ("--from", from_)):
            if layout is not None and layout not in conversion.LAYOUTS:
                raise ConfigError(f"{name} is {layout}, expected one of {', '.join(conversion.LAYOUTS)}")
        report = conversion.convert(
            source,
            target,
            to=to,  # type: ignore[arg-type]
            source_layout=from_,  # type: ignore[arg-type]
            base=base,
            form=conversion.Form(
                vit_stages=vit_pp_layers,
                llm_stages=llm_pp_layers,
                ranks=tp_size,
                max_shard_bytes=None if max_shard_size is None else _bytes(max_shard_size),
                safetensors=safe_serialization,
            ),
        )
        print(
            f"{target}: {report.tensors} weights, {report.size_bytes / 1e6:.1f} MB of {report.dtype}, "
            f"{report.source_layout} -> {report.target_layout}; read back, equal bit for bit"
        )
        if report.stages is not None:
            print(f"stages: {report.stages}; tensor-parallel ranks: {report.ranks}")


_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def _bytes(size: str) -> int:
    found = re.fullmatch(r"(\d+)\s*([A-Z]*)", size.strip().upper())
    if not found or found[2] not in _UNITS or int(found[1]) < 1:
        raise ConfigError(f"--max_shard_size is {size!r}, expected a size such as 5GB or 500MB")
    return int(found[1]) * _UNITS[found[2]]
