"""scheduler_config.json: what a published folder says of its noise schedule and how to sample with it.

The file names the class that wrote it and holds that class's keys, and often those of others; keys that a
file leaves out have the defaults of its class, which belong to the format and stand here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mix_core.errors import BadInputError

FILE = "scheduler_config.json"
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")
NOT_BUILT: dict[str, tuple[Any, ...]] = {
    "thresholding": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
    "invert_sigmas": (False, None),
    "stochastic_sampling": (False, None),
    "shift_terminal": (None, 0, False),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "algorithm_type": ("dpmsolver++",),
    "solver_order": (1, 2),
}
"""Keys that change the result, with the values that they may have here."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The keys of the file that are built. Defaults are those of most classes (see `DEFAULTS`)."""

    num_train_timesteps: int = 1000
    """Noise levels of training."""
    beta_start: float = 0.0001
    beta_end: float = 0.02
    """Variance added by the first and the last step."""
    beta_schedule: str = "linear"
    """How variances grow: "linear", "scaled_linear" (their roots do), "squaredcos_cap_v2" (cosine)."""
    trained_betas: tuple[float, ...] | None = None
    """All variances, in place of the three keys above."""
    rescale_betas_zero_snr: bool = False
    """Whether the last level is pure noise (Lin et al., 2023, algorithm 1)."""
    prediction_type: str = "epsilon"
    """What the model gives: the noise, the velocity, or the clean sample."""
    timestep_spacing: str = "leading"
    """Which training levels sampling visits (Lin et al., 2023, table 2)."""
    steps_offset: int = 0
    """Added to levels of spacing "leading"."""
    clip_sample: bool = True
    """Whether the clean sample is clipped at each step; False for latents."""
    clip_sample_range: float = 1.0
    set_alpha_to_one: bool = True
    """Whether the last step goes to a sample without noise; else to the first level of training."""
    variance_type: str | None = "fixed_small"
    """Noise that a DDPM step adds: "fixed_small", "fixed_small_log" or "fixed_large"."""
    use_karras_sigmas: bool = False
    """Levels as in Karras et al., 2022, equation 5."""
    sigma_min: float | None = None
    sigma_max: float | None = None
    """Ends of these levels, in place of the schedule's own."""
    final_sigmas_type: str = "zero"
    """Level that the last step goes to: "zero" or "sigma_min"."""
    solver_order: int = 2
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    """Whether the last step is of first order where there are fewer than 15."""
    euler_at_final: bool = False
    """Whether it always is."""
    lambda_min_clipped: float = -float("inf")
    """Lowest log signal-to-noise ratio (halved) that is visited."""
    skip_prk_steps: bool = False
    """Of PNDM: whether it begins without Runge-Kutta steps."""
    shift: float = 1.0
    """Of a flow: moves levels to more noise (Esser et al., 2024, section 5.3.2)."""
    use_dynamic_shifting: bool = False
    """Of a flow: the shift grows with the picture."""
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    """The logarithm of the shift goes from base to max between these numbers of tokens."""


DEFAULTS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": {},
    "DDIMScheduler": {},
    "PNDMScheduler": {"set_alpha_to_one": False, "clip_sample": False},
    "EulerDiscreteScheduler": {"timestep_spacing": "linspace", "clip_sample": False},
    "DPMSolverMultistepScheduler": {
        "timestep_spacing": "linspace",
        "clip_sample": False,
        "variance_type": None,
    },
    "FlowMatchEulerDiscreteScheduler": {},
}
"""What a class's file means by a key that it leaves out, where that is not ScheduleConfig's default."""


def config_from_dict(source: Mapping[str, Any], class_name: str) -> ScheduleConfig:
    """The keys of a file as a class reads them. Raises BadInputError for values that are not built."""
    for key, values in NOT_BUILT.items():
        if key in source and source[key] not in values:
            raise BadInputError(
                f"{FILE} has {key} = {source[key]!r}, which is not built; expected {values[0]!r}"
            )
    known = {field.name for field in fields(ScheduleConfig)}
    read = {key: value for key, value in source.items() if key in known and value is not None}
    if "trained_betas" in read:
        read["trained_betas"] = tuple(float(beta) for beta in read["trained_betas"])
    config = replace(ScheduleConfig(), **{**DEFAULTS[class_name], **read})
    _check(config)
    return config


def _check(config: ScheduleConfig) -> None:
    for key, allowed in (
        ("beta_schedule", BETA_SCHEDULES),
        ("prediction_type", PREDICTIONS),
        ("timestep_spacing", SPACINGS),
        ("variance_type", ("fixed_small", "fixed_small_log", "fixed_large", None)),
        ("final_sigmas_type", ("zero", "sigma_min")),
        ("solver_type", ("midpoint", "heun")),
    ):
        value = getattr(config, key)
        if value not in allowed:
            built = ", ".join(name for name in allowed if name is not None)
            raise BadInputError(f"{FILE} has {key} = {value!r}; built are {built}")
    if config.num_train_timesteps < 2:
        raise BadInputError(
            f"{FILE} has num_train_timesteps = {config.num_train_timesteps}, expected 2 or more"
        )
    betas = config.trained_betas
    if betas is not None and len(betas) != config.num_train_timesteps:
        raise BadInputError(
            f"{FILE} has {len(betas)} trained_betas and num_train_timesteps = {config.num_train_timesteps}; "
            "expected one for each"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's scheduler_config.json. Raises BadInputError."""
    path = Path(folder) / FILE
    try:
        source = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInputError(
            f"{folder} has no {FILE}; expected the scheduler folder of a published model"
        ) from None
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(source, dict) or not isinstance(source.get("_class_name"), str):
        raise BadInputError(f"{path} has no _class_name; expected the {FILE} of a published model")
    return source
