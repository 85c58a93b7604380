"""`mix-core audit`: which kernels of a program or a model a chip has, without the chip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mix_core.device.audit import Audit

DTYPES = ("float32", "bfloat16", "float16")


def register(app: typer.Typer) -> None:
    @app.command("audit", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
    def audit(
        command: Annotated[
            list[str] | None, typer.Argument(metavar="[-- CMD...]", help="Program and its arguments.")
        ] = None,
        device: str | None = typer.Option(None, "--device", help="Device, for example npu or xpu."),
        model: str | None = typer.Option(None, help="Model family, for example qwen2_5_vl, at a tiny size."),
        dtype: str = typer.Option("bfloat16", help="float32, bfloat16 or float16; of --model."),
        train: bool = typer.Option(True, "--train/--infer", help="A training step, or an answer."),
        as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    ) -> None:
        """Run CMD or one step of a model; report each kernel: native, on the CPU, or stopping the run."""
        import sys

        from mix_core.device.audit import judge
        from mix_core.device.audit_run import record
        from mix_core.device.values import Workload
        from mix_core.errors import EXIT_NOT_USABLE, BadInputError, RunFailedError

        if (model is None) == (not command):
            raise BadInputError("give either --model NAME or a program after --, to be audited")
        if dtype not in DTYPES:
            raise BadInputError(f"--dtype is {dtype!r}, expected {', '.join(DTYPES)}")
        mode = "train" if train else "infer"
        if model is not None:
            from mix_core.cli.audit_model import tiny_of

            tiny_of(model)  # an unknown family is found before anything is built
            command = [sys.executable, "-m", "mix_core.cli.audit_model", model, dtype, mode]
        assert command is not None, "there is one or the other"
        workload = Workload(model=model, mode="train" if train else "infer", dtype=dtype, simulate=True)
        found = record(command, device, workload)
        audited = judge(found.called, found.chip)
        if as_json:
            import json

            said = {"device": found.device, "table": found.source, "model": model, "mode": mode}
            said |= {"dtype": dtype if model else None, "exit_code": found.exit_code}
            typer.echo(json.dumps(said | audited.to_json(), indent=2))
        else:
            what = f"one step of {model}, {mode}, {dtype}" if model else "the program"
            for line in report(found.device, found.source, what, audited):
                typer.echo(line)
        if found.exit_code != 0:
            raise RunFailedError(
                f"the audited program ended with exit code {found.exit_code}; what it called before is above"
            )
        if audited.gaps:
            raise SystemExit(EXIT_NOT_USABLE)


def report(device: str, source: str | None, what: str, audited: Audit) -> list[str]:
    """The audit for people: a summary, and a line for each gap."""
    from mix_core.device.listing import table

    stops, host = audited.count("stops"), audited.count("black-listed") + audited.count("falls back")
    native = audited.count("native")
    lines = [f"{device}: {what} calls {len(audited.rows)} kernels, {native} of them native"]
    lines += [f"table: {source or 'the plugin has none, so every kernel counts as native'}"]
    if stops:
        lines += [f"{stops} would stop the run"]
    if host:
        lines += [f"{host} would run on the CPU and move {in_units(audited.moved_bytes)}"]
    if not audited.gaps:
        return [*lines, "no gap"]
    return [*lines, "", *table([_cells(row) for row in audited.gaps], COLUMNS)]


COLUMNS = ("verdict", "kernel", "dtype", "calls", "bytes", "what to do")


def _cells(row: Any) -> dict[str, Any]:
    lacks = {"kernel": " (no such kernel)", "dtype": f" (not in {row.dtype})", None: ""}[row.missing]
    values = (row.verdict + lacks, row.kernel, row.dtype, row.calls, in_units(row.bytes), row.advice)
    return dict(zip(COLUMNS, values))


def in_units(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
