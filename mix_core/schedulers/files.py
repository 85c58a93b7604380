"""Schedulers from and to the published folders, by the class that the file names or another that reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mix_core.errors import BadInputError
from mix_core.schedulers.config import FILE, PREDICTIONS, ScheduleConfig, config_from_dict, read_config
from mix_core.schedulers.ddim import DDIM
from mix_core.schedulers.ddpm import DDPM
from mix_core.schedulers.dpm_solver import DPMSolver
from mix_core.schedulers.euler import Euler
from mix_core.schedulers.flow import FlowEuler
from mix_core.schedulers.pndm import PNDM
from mix_core.schedulers.schedule import NoiseSchedule

Scheduler = NoiseSchedule | FlowEuler

KINDS: dict[str, type[NoiseSchedule] | type[FlowEuler]] = {
    "ddpm": DDPM,
    "ddim": DDIM,
    "pndm": PNDM,
    "euler": Euler,
    "dpm++": DPMSolver,
    "flow": FlowEuler,
}
"""By the names that users give."""

_WRITTEN: dict[str, tuple[str, ...]] = {
    "ddpm": (
        "clip_sample",
        "clip_sample_range",
        "variance_type",
        "timestep_spacing",
        "rescale_betas_zero_snr",
    ),
    "ddim": (
        "clip_sample",
        "clip_sample_range",
        "set_alpha_to_one",
        "timestep_spacing",
        "rescale_betas_zero_snr",
    ),
    "pndm": ("set_alpha_to_one", "skip_prk_steps", "timestep_spacing"),
    "euler": (
        "use_karras_sigmas",
        "sigma_min",
        "sigma_max",
        "final_sigmas_type",
        "timestep_spacing",
        "rescale_betas_zero_snr",
    ),
    "dpm++": (
        "solver_order",
        "solver_type",
        "lower_order_final",
        "euler_at_final",
        "lambda_min_clipped",
        "use_karras_sigmas",
        "final_sigmas_type",
        "timestep_spacing",
        "rescale_betas_zero_snr",
    ),
    "flow": (
        "shift",
        "use_dynamic_shifting",
        "base_shift",
        "max_shift",
        "base_image_seq_len",
        "max_image_seq_len",
    ),
}
_OF_VARIANCES = (
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "steps_offset",
)


def make_scheduler(kind: str, source: Mapping[str, Any] | None = None) -> Scheduler:
    """The scheduler of this kind, by the keys of a scheduler_config.json. Raises BadInputError."""
    if kind not in KINDS:
        raise BadInputError(f"there is no scheduler {kind!r}; built are {', '.join(KINDS)}")
    found = KINDS[kind]
    return found(config_from_dict(source or {}, found.class_name))


def kind_of(class_name: str) -> str:
    """Our name of a published class. Raises BadInputError."""
    for kind, found in KINDS.items():
        if found.class_name == class_name:
            return kind
    known = ", ".join(found.class_name for found in KINDS.values())
    raise BadInputError(
        f"{FILE} names {class_name}, which is not built; built are {known}: name one of {', '.join(KINDS)}"
    )


def load_scheduler(folder: Path, kind: str | None = None) -> Scheduler:
    """The scheduler of a published folder, of another kind where one is named. Raises BadInputError.

    Schedulers of diffusion read each other's files, as published pipelines are told to; a flow's file and
    theirs have nothing in common.
    """
    source = read_config(folder)
    written = source["_class_name"]
    kind = kind or kind_of(written)
    is_flow = written == FlowEuler.class_name
    if kind in KINDS and (kind == "flow") != is_flow:
        wanted = "flow" if is_flow else ", ".join(name for name in KINDS if name != "flow")
        raise BadInputError(
            f"{Path(folder) / FILE} is of {written}, which {kind!r} cannot read; give {wanted}"
        )
    return make_scheduler(kind, source)


def save_scheduler(scheduler: Scheduler, folder: Path) -> None:
    """Write scheduler_config.json as the published class reads it."""
    kind = kind_of(scheduler.class_name)
    keys = ("num_train_timesteps", *(() if kind == "flow" else _OF_VARIANCES), *_WRITTEN[kind])
    values = asdict(scheduler.config)
    if values["lambda_min_clipped"] == ScheduleConfig.lambda_min_clipped:
        del values["lambda_min_clipped"]  # minus infinity, which JSON has no number for
    chosen = {key: values[key] for key in keys if key in values}
    written: dict[str, Any] = {"_class_name": scheduler.class_name, **chosen}
    if kind == "dpm++":
        written |= {"algorithm_type": "dpmsolver++", "variance_type": None}
    text = json.dumps(written, indent=2)
    (Path(folder) / FILE).write_text(text + "\n", encoding="utf-8")


def with_prediction(scheduler: NoiseSchedule, prediction: str) -> NoiseSchedule:
    """The same schedule for a model that gives something else: the key `prediction_type`."""
    if prediction not in PREDICTIONS:
        raise BadInputError(f"prediction_type is {prediction!r}, expected one of {', '.join(PREDICTIONS)}")
    config: ScheduleConfig = replace(scheduler.config, prediction_type=prediction)
    return type(scheduler)(config)


def check_fits(scheduler: Scheduler, *, flow: bool, model: str) -> None:
    """Refuse a scheduler whose samples are not what the model was trained on.

    flow: whether the model gives a flow's velocity; model: its name, for the text. Raises BadInputError.
    """
    if isinstance(scheduler, FlowEuler) == flow:
        return
    if flow:
        raise BadInputError(
            f"{model} gives a flow's velocity, and {scheduler.class_name} expects "
            f"{scheduler.config.prediction_type}; give the scheduler 'flow'"
        )
    raise BadInputError(
        f"{scheduler.class_name} follows a flow, and {model} gives noise or its velocity; give one of "
        f"{', '.join(kind for kind in KINDS if kind != 'flow')}"
    )
