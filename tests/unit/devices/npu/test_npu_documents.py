"""docs/migrating.md and the READMEs say of the Ascend variables and kernels what the plugin does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mix_device_npu.profile import PROFILE

from mix_core.plugin_api import Workload
from mix_device_npu import operators, settings

ROOT = Path(__file__).resolve().parents[4]
MIGRATING = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
READMES = {
    name: (ROOT / "mix_device_npu" / name).read_text(encoding="utf-8")
    for name in ("README.md", "README.zh.md")
}

# Every variable that PaddleMIX's Ascend guide and MindSpeed-MM's Qwen2.5-VL guide export or declare.
OF_THE_GUIDES = """
    ASCEND_RT_VISIBLE_DEVICES FLAGS_use_stride_kernel FLAGS_npu_storage_format FLAGS_npu_jit_compile
    FLAGS_npu_scale_aclnn FLAGS_npu_split_aclnn CUSTOM_DEVICE_BLACK_LIST PYTHONPATH FLAGS_allocator_strategy
    MODEL_NAME VAE_NAME DATASET_NAME HF_ENDPOINT FLAGS_conv_workspace_size_limit
    NPUS_PER_NODE MASTER_ADDR MASTER_PORT NNODES NODE_RANK WORLD_SIZE
    ASCEND_SLOG_PRINT_TO_STDOUT ASCEND_GLOBAL_LOG_LEVEL TASK_QUEUE_ENABLE COMBINED_ENABLE CPU_AFFINITY_CONF
    HCCL_CONNECT_TIMEOUT NPU_ASD_ENABLE ASCEND_LAUNCH_BLOCKING ACLNN_CACHE_LIMIT
"""


def fates() -> dict[str, str]:
    """Variable to what the page says became of it."""
    section = MIGRATING.split("\n## Variables of the Ascend guides\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {name: row[2] for row in rows for name in re.findall(r"`(\w+)`", row[0])}


def made() -> dict[str, set[str]]:
    """Task to the variables that are set for several processes."""
    return {
        task: {
            *settings.environment(Workload(task=task, world_size=8)),
            "FLAGS_use_stride_kernel",
            "FLAGS_allocator_strategy",
            *(["CUSTOM_DEVICE_BLACK_LIST"] if settings.blacklisted_ops(Workload(task=task)) else []),
        }
        for task in ("understanding", "generation")
    }


def test_every_variable_of_the_guides_has_a_fate():
    assert [name for name in OF_THE_GUIDES.split() if name not in fates()] == []


def test_the_fates_are_what_the_plugin_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    sets = made()
    for name, fate in fates().items():
        if "where CANN is found" in fate:
            continue
        for task in sets:
            wanted = fate.startswith("set") and (" for " not in fate.split(";")[0] or f"for {task}" in fate)
            assert (name in sets[task]) == wanted, (name, task, fate)


def test_what_explain_prints_is_on_the_page():
    assert set().union(*made().values()) - fates().keys() == set()


@pytest.mark.parametrize("name", sorted(READMES))
def test_a_readme_is_plain_about_hardware_and_versions(name: str):
    text = READMES[name]
    assert text.count("not run on hardware") + text.count("未在硬件上运行") >= 4
    for op in ("attention", "attention_packed", "rms_norm", "rotary", "swiglu", "linear_cross_entropy"):
        assert op in text and any(op in listed for listed in PROFILE.not_run_on_hardware), op
    assert PROFILE.driver_versions.bounds.removeprefix(">=") in text
    assert f"{len(operators.read_table()['operators'])} " in text
    assert "--shm-size=128G" in text and "-v /usr/local/dcmi:/usr/local/dcmi" in text


def test_the_readmes_have_the_same_commands():
    english, chinese = (
        [
            line.split("#")[0].strip()
            for line in "\n".join(re.findall(r"```shell\n(.*?)```", text, re.S)).splitlines()
        ]
        for text in READMES.values()
    )
    assert english == chinese and len(english) > 10
