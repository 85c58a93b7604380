"""What users of the Kunlun guide export by hand, as `mix-core explain xpu` shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mix_core.plugin_api import Workload
from mix_device_xpu import settings

# The export lines of PaddleMIX's Kunlun guide, 3.1.2. Its CUDA_VISIBLE_DEVICES=0 is a choice of the card.
GUIDE = {"FLAGS_use_stride_kernel": "0", "FLAGS_allocator_strategy": "auto_growth"}
# What paddleformers' launcher sets for this chip, in cli/cli.py, less the names of network cards.
LAUNCHER = {
    "memory": {"XPU_PADDLE_L3_SIZE": 0, "XPUAPI_DEFAULT_SIZE": 2205258752},
    "bfloat16": {"XPU_PADDLE_FC_LOCAL_INT16": 1, "XPU_AUTO_BF16_TF32": 1, "XPU_AUTO_BF16_TF32_RADIO": 10},
    "collectives": {
        "CUDA_DEVICE_MAX_CONNECTIONS": 8,
        "BKCL_TREE_THRESHOLD": 0,
        "BKCL_FORCE_L3_RDMA": 0,
        "BKCL_USE_AR": 1,
        "BKCL_RING_OPT": 1,
        "BKCL_RING_HOSTID_USE_RANK": 1,
    },
    "rdma": {"BKCL_ENABLE_XDR": 1, "BKCL_RDMA_FORCE_TREE": 1},
}
OF_THE_SITE = {"BKCL_RDMA_NICS", "BKCL_SOCKET_IFNAME"}
BESIDE = {
    "understanding": {name: str(value) for name, value in LAUNCHER["memory"].items()},
    "generation": {},
}


def values(workload: Workload) -> dict[str, object]:
    return {name: decision.value for name, decision in settings.environment(workload).items()}


@pytest.mark.parametrize("task", sorted(BESIDE))
def test_explain_prints_the_guide_s_variables(task: str, command):
    done = command("explain", "xpu", "--workload", task, "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout) if row["source"] != "core"}
    assert {name: row["value"] for name, row in rows.items()} == GUIDE | BESIDE[task]
    for name, row in rows.items():
        source = "Kunlun guide" if name in GUIDE else "paddleformers"
        assert source in row["reason"] and row["source"] == "plugin xpu", row


def test_the_table_for_people_names_each_variable(command):
    done = command("explain", "xpu")
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert set(GUIDE) <= set(lines)
    assert "device xpu is absent here" in done.stderr


def test_a_value_of_the_user_stays(command):
    rows = json.loads(command("explain", "xpu", "--json", FLAGS_use_stride_kernel="1").stdout)
    (row,) = (row for row in rows if row["name"] == "FLAGS_use_stride_kernel")
    assert row["value"] == "1" and "plugin xpu would have 0" in row["reason"]


def test_only_a_bfloat16_run_lets_the_library_choose_the_precision():
    assert values(Workload(dtype="float32")) == LAUNCHER["memory"]
    assert values(Workload(dtype="bfloat16")) == LAUNCHER["memory"] | LAUNCHER["bfloat16"]
    assert values(Workload(dtype="bfloat16", deterministic=True)) == LAUNCHER["memory"]
    assert values(Workload("generation", dtype="bfloat16")) == {}


def test_collectives_are_set_for_more_than_one_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("BKCL_RDMA_NICS", raising=False)
    assert values(Workload("generation", world_size=8)) == LAUNCHER["collectives"]
    monkeypatch.setenv("BKCL_RDMA_NICS", "eth1,eth1")
    assert values(Workload("generation", world_size=8)) == LAUNCHER["collectives"] | LAUNCHER["rdma"]
    assert values(Workload("generation", world_size=1)) == {}


def test_names_of_network_cards_are_never_guessed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BKCL_RDMA_NICS", "eth1")
    for task in BESIDE:
        everything = settings.environment(Workload(task, dtype="bfloat16", world_size=8))
        assert not OF_THE_SITE & set(everything)


def test_migrating_says_what_became_of_each():
    text = (Path(__file__).resolve().parents[4] / "docs" / "migrating.md").read_text(encoding="utf-8")
    section = text.split("## Variables of the Kunlun guides\n", 1)[1].split("\n## ", 1)[0]
    rows = " ".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    names = {*GUIDE, *OF_THE_SITE, *(name for part in LAUNCHER.values() for name in part)}
    assert [name for name in sorted(names) if f"`{name}`" not in rows] == []
