"""A plan in words, as JSON, and as keys of a run's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mix_core.config import known_names
from mix_core.config_aliases import FIXED
from mix_core.errors import ConfigError
from mix_core.planning.layouts import Layout
from mix_core.planning.memory import Memory
from mix_core.planning.search import HEADROOM, Found, Plan, Wanted

GIB = 2.0**30
COLUMNS = (
    "data",
    "sharding",
    "tensor",
    "pipeline",
    "batch x passes",
    "recompute",
    "GiB",
    "s/step",
    "tokens/s",
    "mfu",
)
MEMORY_WORDS = ("weights", "optimizer", "masters", "gradients", "activations", "buffers")
TIME_WORDS = ("compute", "bubble", "tensor", "pipeline", "data", "update")
UNITS = {
    "peak_flops": (1e12, "Tflop/s"),
    "memory_bandwidth": (1e9, "GB/s"),
    "link_bandwidth": (1e9, "GB/s"),
    "network_bandwidth": (1e9, "GB/s"),
    "latency_s": (1e-6, "us"),
    "devices_per_host": (1, ""),
    "efficiency": (1, ""),
}
REASONS = 8
"""Refusals that are printed."""


def best_of_each(plans: Sequence[Plan], count: int) -> list[Plan]:
    """The fastest plans, one for each way of dividing the model and of sharing out its state."""
    chosen: dict[tuple[Any, ...], Plan] = {}
    for plan in plans:
        grid = plan.layout.grid
        key = (grid.tensor, grid.pipeline, plan.layout.stage, plan.layout.recompute)
        chosen.setdefault(key, plan)
    return list(chosen.values())[:count]


def row(plan: Plan, wanted: Wanted) -> dict[str, str]:
    """A plan as a line of the table."""
    layout, grid = plan.layout, plan.layout.grid
    pieces = f" in {grid.interleave} pieces" if grid.interleave > 1 else ""
    return {
        "data": str(layout.data),
        "sharding": f"{layout.sharding} (stage {layout.stage})" if layout.stage else "-",
        "tensor": str(grid.tensor),
        "pipeline": f"{grid.pipeline}{pieces}",
        "batch x passes": f"{layout.micro} x {layout.passes}",
        "recompute": layout.recompute,
        "GiB": f"{plan.worst.total / GIB:.1f}",
        "s/step": f"{plan.time.total:.3g}",
        "tokens/s": f"{plan.tokens_per_s:,.0f}",
        "mfu": f"{100 * plan.utilisation(wanted.devices, wanted.machine):.0f} %",
    }


def details(plan: Plan) -> list[str]:
    """Where memory and time of a plan go, and which stage has which layers."""
    memory = plan.worst
    parts = ", ".join(
        f"{word} {getattr(memory, word) / GIB:.1f}" for word in MEMORY_WORDS if getattr(memory, word)
    )
    seconds = ", ".join(
        f"{word} {getattr(plan.time, word):.3g}" for word in TIME_WORDS if getattr(plan.time, word)
    )
    hidden = f"; {plan.time.hidden:.3g} of communication hidden" if plan.time.hidden else ""
    lines = [f"memory, GiB: {parts}", f"step, s: {seconds}{hidden}"]
    if plan.layout.grid.pipeline > 1:
        vision, text = _splits(plan.layout)
        of_stages = ", ".join(f"{one.total / GIB:.1f}" for one in plan.memory)
        lines.append(f"vision layers by stage {vision}, decoder layers {text}, GiB {of_stages}")
    return lines


def _splits(layout: Layout) -> tuple[list[int], list[int]]:
    pieces = [
        piece for place in range(layout.grid.interleave) for piece in (s[place] for s in layout.grid.stages)
    ]
    return [piece.tower_layers for piece in pieces], [piece.decoder_layers for piece in pieces]


def figures(wanted: Wanted) -> list[str]:
    """What the plan takes a device to be, with each figure's source."""
    by_source: dict[str, list[str]] = {}
    for name, (unit, word) in UNITS.items():
        value = getattr(wanted.machine, name) / unit
        by_source.setdefault(wanted.machine.sources[name], []).append(f"{name} {value:g} {word}".rstrip())
    return [f"{', '.join(listed)} ({source})" for source, listed in by_source.items()]


def refusals(found: Found, wanted: Wanted) -> list[str]:
    lines = [refusal.why for refusal in found.refused]
    rest = len(lines) - REASONS
    if rest > 0:
        lines = [*lines[:REASONS], f"and {rest} more (--json lists them)"]
    if any("GiB" in line for line in lines):
        lines.append(
            f"{wanted.room / GIB:.1f} GiB is the device's memory less {HEADROOM:.0%}, which stays free"
        )
    return lines


def nothing_fits(found: Found, wanted: Wanted) -> str:
    """The error where there is no plan: which layout comes nearest, and what to do."""
    if found.nearest is None:
        why = found.refused[-1].why if found.refused else "the given stages do not divide them"
    else:
        why = f"{found.nearest.why}"
    more = "memory" if wanted.setting.bunch else "devices or memory"
    backward = ", --optimizer_in_backward" if wanted.devices == 1 and not wanted.setting.bunch else ""
    return (
        f"no layout of {wanted.devices} devices fits: {why}; give more {more}, another "
        f"--global_batch, a shorter --seq{backward} or --recompute auto"
    )


def as_json(found: Found, shown: Sequence[Plan], wanted: Wanted) -> dict[str, Any]:
    return {
        "devices": wanted.devices,
        "memory_bytes": wanted.memory,
        "usable_bytes": wanted.room,
        "layouts": found.seen,
        "fitting": len(found.plans),
        "machine": {
            name: {"value": getattr(wanted.machine, name), "source": source}
            for name, source in wanted.machine.sources.items()
        },
        "plans": [_plan_json(plan, wanted) for plan in shown],
        "refused": [{"layout": refusal.what, "reason": refusal.why} for refusal in found.refused],
    }


def _plan_json(plan: Plan, wanted: Wanted) -> dict[str, Any]:
    layout = plan.layout
    vision, text = _splits(layout)
    return {
        "data": layout.data,
        "sharding": layout.sharding,
        "sharding_stage": layout.stage,
        "tensor": layout.grid.tensor,
        "pipeline": layout.grid.pipeline,
        "interleave": layout.grid.interleave,
        "vision_layers": vision,
        "decoder_layers": text,
        "micro_batch": layout.micro,
        "passes": layout.passes,
        "recompute": layout.recompute,
        "memory_bytes": [_memory_json(one) for one in plan.memory],
        "step_s": plan.time.total,
        "step_parts_s": {word: getattr(plan.time, word) for word in (*TIME_WORDS, "hidden")},
        "tokens_per_s": plan.tokens_per_s,
        "mfu": plan.utilisation(wanted.devices, wanted.machine),
    }


def _memory_json(memory: Memory) -> dict[str, int]:
    return {word: getattr(memory, word) for word in (*MEMORY_WORDS, "total")}


def keys_of(plan: Plan, wanted: Wanted, dtype: str, level: str, folder: str | None) -> dict[str, Any]:
    """The plan as keys of a run's configuration; data parallelism is what the other degrees leave."""
    layout, grid = plan.layout, plan.layout.grid
    keys: dict[str, Any] = {"model_name_or_path": folder} if folder else {}
    keys |= {
        "dtype": dtype,
        "max_length": wanted.sequence,
        "per_device_train_batch_size": layout.micro,
        "gradient_accumulation_steps": layout.passes,
        "recompute": layout.recompute != "none",
    }
    if dtype != "float32":
        keys["fp16_opt_level"] = level
    if wanted.setting.adapter_rank:
        keys |= {"lora": True, "lora_rank": wanted.setting.adapter_rank}
    else:
        frozen = {"freeze_vit": "tower", "freeze_mlp": "projector", "freeze_llm": "decoder"}
        keys |= {key: True for key, part in frozen.items() if not wanted.setting.learns_part(part)}
    if wanted.setting.bunch:
        keys |= {"optimizer_in_backward": True, "max_grad_norm": 0.0}
    if layout.recompute == "selective":
        keys["recompute_granularity"] = "full_attn"
    if layout.stage:
        keys |= {"sharding": f"stage{layout.stage}", "sharding_parallel_degree": layout.sharding}
    if grid.tensor > 1:
        keys |= {"tensor_parallel_degree": grid.tensor, "sequence_parallel": True}
    if grid.pipeline > 1:
        keys["pipeline_parallel_degree"] = grid.pipeline
        for key, stack in (("vit_pp_layers", "tower_layers"), ("llm_pp_layers", "decoder_layers")):
            lists = [[getattr(piece, stack) for piece in chunk] for chunk in zip(*grid.stages)]
            keys[key] = lists if grid.interleave > 1 else lists[0]
    if grid.interleave > 1:
        keys["virtual_pp_degree"] = grid.interleave
    return keys


def taken_now(keys: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Those keys that a configuration may contain, and the names of the ones that training refuses today."""
    known = set(known_names())
    written = {name: value for name, value in keys.items() if name in known}
    refused = [name for name in keys if name not in known]
    for name, value in written.items():
        if name in FIXED:
            try:
                FIXED[name].check(name, value, "plan")
            except ConfigError:
                refused.append(name)
    return written, refused
