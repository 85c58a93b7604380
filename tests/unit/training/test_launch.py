"""The launcher's options, and which rank is told to have failed."""

from __future__ import annotations

import pytest

from mix_core.device.ranks import Job, job_of, own_device
from mix_core.errors import BadInputError, ConfigError
from mix_core.training.launch import Launch, _culprit, _without, parse_launch


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({"devices": "0,1"}, Launch((0, 1))),
        ({"devices": "3"}, Launch((3,))),
        ({"devices": "1,0", "max_restarts": "2"}, Launch((1, 0), max_restarts=2)),
        (
            {"devices": "0,1", "nnodes": "2", "node_rank": "1", "master": "10.0.0.1:6070"},
            Launch((0, 1), 2, 1, "10.0.0.1:6070"),
        ),
    ],
)
def test_options(options, wanted):
    assert parse_launch(options) == wanted


@pytest.mark.parametrize(
    "options, says",
    [
        ({"nnodes": "2"}, "--devices is ''"),
        ({"devices": "0,0"}, "--devices is '0,0'; expected indices, each once, as 0,1"),
        ({"devices": "0,x"}, "--devices is '0,x'"),
        ({"devices": "0,"}, "--devices is '0,'"),
        ({"devices": "0", "max_restarts": "-1"}, "--max_restarts is '-1'"),
        ({"devices": "0", "nnodes": "0"}, "--nnodes is '0'; expected a whole number from 1 on"),
        ({"devices": "0", "nnodes": "2"}, "--nnodes 2 needs --master HOST:PORT and this host's --node_rank"),
        (
            {"devices": "0", "nnodes": "2", "node_rank": "2", "master": "h:1"},
            "--node_rank 2 is none of the 2",
        ),
        (
            {"devices": "0", "nnodes": "2", "node_rank": "1", "master": "h"},
            "--master is 'h'; expected HOST:PORT",
        ),
    ],
)
def test_options_that_mean_nothing(options, says):
    with pytest.raises(ConfigError, match="^" + says.replace("(", r"\(")):
        parse_launch(options)


def test_ranks_get_the_words_without_the_launcher_s_options():
    words = ["a.json", "--devices", "0,1", "--max_steps", "3", "--master=h:1", "--seed=4"]
    assert _without(words, ("devices", "master")) == ["a.json", "--max_steps", "3", "--seed=4"]


def end(kind: str, error: str = "") -> dict:
    return {"kind": kind, "error": error, "code": 3}


@pytest.mark.parametrize(
    "ends, named, rank",
    [
        ({0: end("OtherRankError"), 1: end("DataError")}, [0, 1], 1),
        ({0: end("DeviceFailedError", "rank 1 (process 7) ended during all_reduce"), 1: None}, [0], 1),
        ({0: None, 1: end("DeviceFailedError", "code 5")}, [1], 1),
        ({0: None, 1: None}, [1], 1),
        ({0: None, 1: None}, [], 0),
    ],
    ids=["its own error", "named by another", "its device", "named by the launcher", "nothing known"],
)
def test_the_rank_that_failed_first(ends, named, rank):
    assert _culprit(ends, named) == rank


def test_a_rank_knows_itself_by_the_launcher_s_variables():
    assert job_of({}) == Job(0, 1) and job_of({}).leads
    assert job_of({"PADDLE_TRAINER_ID": "1", "PADDLE_TRAINERS_NUM": "4"}) == Job(1, 4)
    with pytest.raises(BadInputError, match=r"^PADDLE_TRAINER_ID=4 and PADDLE_TRAINERS_NUM=4 are no rank"):
        job_of({"PADDLE_TRAINER_ID": "4", "PADDLE_TRAINERS_NUM": "4"})


def test_a_rank_s_device_is_the_launcher_s(acme_profile):
    ranks = {"PADDLE_TRAINER_ID": "1", "PADDLE_TRAINERS_NUM": "2"}
    assert own_device(acme_profile, ranks | {"FLAGS_selected_acmes": "3"}) == 3
    assert own_device(acme_profile, {"FLAGS_selected_acmes": "3"}) is None
    with pytest.raises(BadInputError, match=r"^FLAGS_selected_acmes=0,1 is no index"):
        own_device(acme_profile, ranks | {"FLAGS_selected_acmes": "0,1"})


@pytest.fixture
def acme_profile():
    from mix_core.device.profile import DeviceProfile

    return DeviceProfile(
        name="acme",
        device_type="acme",
        vendor="Acme",
        priority=1,
        dtypes={"default": ("float32",)},
        launcher_variable="FLAGS_selected_acmes",
    )
