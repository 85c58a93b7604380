"""scheduler_config.json: read by other classes, written, and refused where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mix_core.errors import BadInputError
from mix_core.schedulers import (
    KINDS,
    check_fits,
    load_scheduler,
    make_scheduler,
    save_scheduler,
    with_prediction,
)

SD15: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def write(folder: Path, **changes: Any) -> Path:
    (folder / "scheduler_config.json").write_text(json.dumps({**SD15, **changes}))
    return folder


@pytest.mark.parametrize("kind", [None, "ddpm", "ddim", "euler", "dpm++"])
def test_a_published_file_serves_every_class_of_diffusion(tmp_path: Path, kind: str | None) -> None:
    found = load_scheduler(write(tmp_path), kind)
    assert type(found) is KINDS[kind or "pndm"]
    assert found.config.steps_offset == 1 and found.config.beta_schedule == "scaled_linear"
    spacing = "linspace" if kind in ("euler", "dpm++") else "leading"
    assert found.config.timestep_spacing == spacing, "what the file leaves out is the class's own default"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    for kind in KINDS:
        source = {"shift": 3.0} if kind == "flow" else {**SD15, "timestep_spacing": "trailing"}
        made = make_scheduler(kind, source)
        save_scheduler(made, tmp_path)
        again = load_scheduler(tmp_path)
        assert type(again) is type(made)
        assert "Infinity" not in (tmp_path / "scheduler_config.json").read_text()
        save_scheduler(again, tmp_path)
        assert load_scheduler(tmp_path).config == again.config
        assert again.config.shift == made.config.shift
        assert again.config.timestep_spacing == made.config.timestep_spacing


@pytest.mark.parametrize(
    "changes,kind,says",
    [
        ({"_class_name": "HeunDiscreteScheduler"}, None, "names HeunDiscreteScheduler, which is not built"),
        ({"_class_name": None}, None, "has no _class_name"),
        ({}, "heun", "there is no scheduler 'heun'; built are ddpm, ddim, pndm, euler, dpm[+][+], flow"),
        ({}, "flow", "is of PNDMScheduler, which 'flow' cannot read; give ddpm"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "ddim", "which 'ddim' cannot read; give flow"),
        ({"thresholding": True}, "ddim", "has thresholding = True, which is not built; expected False"),
        ({"solver_order": 3}, "dpm++", "has solver_order = 3, which is not built"),
        ({"prediction_type": "noise"}, "ddim", "prediction_type = 'noise'; built are epsilon, v_prediction"),
        ({"beta_schedule": "sigmoid"}, "ddim", "beta_schedule = 'sigmoid'; built are linear, scaled_linear"),
        ({"trained_betas": [0.1, 0.2]}, "ddim", "has 2 trained_betas and num_train_timesteps = 1000"),
        ({"num_train_timesteps": 0}, "ddim", "num_train_timesteps = 0, expected 2 or more"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, changes: dict, kind: str | None, says: str) -> None:
    with pytest.raises(BadInputError, match=says) as caught:
        load_scheduler(write(tmp_path, **changes), kind)
    assert "\n" not in str(caught.value)


def test_a_folder_without_the_file(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"has no scheduler_config.json"):
        load_scheduler(tmp_path)
    (tmp_path / "scheduler_config.json").write_text("{")
    with pytest.raises(BadInputError, match="cannot be read as JSON"):
        load_scheduler(tmp_path)


def test_a_scheduler_that_does_not_fit_the_model_is_refused() -> None:
    ddim, flow = make_scheduler("ddim", SD15), make_scheduler("flow")
    check_fits(ddim, flow=False, model="Stable Diffusion 1.5")
    check_fits(flow, flow=True, model="SD3")
    with pytest.raises(BadInputError, match="SD3 gives a flow's velocity, and DDIMScheduler expects epsilon"):
        check_fits(ddim, flow=True, model="SD3")
    with pytest.raises(
        BadInputError, match=r"follows a flow, and SDXL gives noise .* give one of ddpm, ddim"
    ):
        check_fits(flow, flow=False, model="SDXL")
    assert with_prediction(ddim, "v_prediction").config.prediction_type == "v_prediction"
    with pytest.raises(BadInputError, match="prediction_type is 'flow', expected one of epsilon"):
        with_prediction(ddim, "flow")
