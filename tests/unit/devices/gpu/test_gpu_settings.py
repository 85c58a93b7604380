"""What the NVIDIA scripts export by hand, as `mix-core explain gpu` shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mix_core.plugin_api import Workload
from mix_device_gpu import settings

ALWAYS = {
    "NVIDIA_TF32_OVERRIDE": "0",
    "FLAGS_allocator_strategy": "auto_growth",
    "FLAGS_use_stride_kernel": "1",
}
BY_TASK = {
    "understanding": {},
    "generation": {"FLAGS_conv_workspace_size_limit": "4096", "FLAGS_cudnn_exhaustive_search": "1"},
}
COLLECTIVES = {"NCCL_IB_QPS_PER_CONNECTION": 8, "NCCL_IB_TIMEOUT": 22}
DETERMINISTIC = {
    "FLAGS_cudnn_deterministic": 1,
    "FLAGS_embedding_deterministic": 1,
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
NEVER = {
    "FLAGS_use_cuda_managed_memory",  # the fine-tuning tool's guide leaves it to those who run out of memory
    "NCCL_IB_GID_INDEX",  # of the site
    "NCCL_SOCKET_IFNAME",
    "NCCL_IB_HCA",
}

OUR_CHOICE = {"FLAGS_allocator_strategy", "FLAGS_use_stride_kernel", "NCCL_SOCKET_IFNAME", "NCCL_IB_HCA"}
"""In no script: Paddle's defaults, said explicitly, and names that the README speaks of."""


def values(workload: Workload) -> dict[str, object]:
    return {name: decision.value for name, decision in settings.environment(workload).items()}


@pytest.mark.parametrize("task", sorted(BY_TASK))
def test_explain_prints_the_variables_of_the_scripts(task: str, command):
    done = command("explain", "gpu", "--workload", task, "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout) if row["source"] != "core"}
    assert {name: row["value"] for name, row in rows.items()} == ALWAYS | BY_TASK[task]
    for row in rows.values():
        assert row["source"] == "plugin gpu" and row["reason"].endswith(")"), row


def test_deterministic_runs_choose_no_algorithm_by_time():
    plain = values(Workload("generation"))
    fixed = values(Workload("generation", deterministic=True))
    assert set(plain) - set(fixed) == {"FLAGS_cudnn_exhaustive_search"}
    assert {name: fixed[name] for name in set(fixed) - set(plain)} == DETERMINISTIC
    assert not set(DETERMINISTIC) & set(values(Workload()))


def test_collectives_are_set_for_more_than_one_process():
    one, many = values(Workload()), values(Workload(world_size=8))
    assert many == one | COLLECTIVES
    fixed = values(Workload(world_size=8, deterministic=True))
    assert fixed == one | COLLECTIVES | DETERMINISTIC | {"NCCL_ALGO": "Ring"}


def test_what_belongs_to_a_site_or_to_a_choice_is_left_alone():
    for task in BY_TASK:
        for deterministic in (False, True):
            found = settings.environment(Workload(task, world_size=8, deterministic=deterministic))
            assert not NEVER & set(found)


def test_every_operator_is_native():
    support = settings.operator_support()
    assert support["operators"] is None and "CUDA" in str(support["source"])


def test_migrating_says_what_became_of_each():
    text = (Path(__file__).resolve().parents[4] / "docs" / "migrating.md").read_text(encoding="utf-8")
    section = text.split("## Variables of the NVIDIA scripts\n", 1)[1].split("\n## ", 1)[0]
    rows = " ".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    names = {*ALWAYS, *NEVER, *COLLECTIVES, *DETERMINISTIC, "NCCL_ALGO", *BY_TASK["generation"]}
    assert [name for name in sorted(names - OUR_CHOICE) if f"`{name}`" not in rows] == []
