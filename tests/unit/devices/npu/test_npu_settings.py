"""What users of the Ascend guide export by hand, as `mix-core explain npu` shows it."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from mix_core.plugin_api import BadInputError, Workload
from mix_device_npu import settings, toolchain

# The export lines of PaddleMIX's Ascend guide (release 2.1), 3.1.2 and 4.1.1, less those that are the user's
# own (MODEL_NAME, VAE_NAME, DATASET_NAME, HF_ENDPOINT) or find a source tree (PYTHONPATH of ppdiffusers).
GUIDE = {
    "understanding": {
        "FLAGS_use_stride_kernel": "0",
        "FLAGS_npu_storage_format": "0",
        "FLAGS_npu_jit_compile": "0",
        "FLAGS_npu_scale_aclnn": "True",
        "FLAGS_npu_split_aclnn": "True",
        "CUSTOM_DEVICE_BLACK_LIST": "set_value,set_value_with_tensor",
    },
    "generation": {
        "FLAGS_npu_storage_format": "0",
        "FLAGS_use_stride_kernel": "0",
        "FLAGS_npu_scale_aclnn": "True",
        "FLAGS_allocator_strategy": "auto_growth",
        "FLAGS_conv_workspace_size_limit": "4096",
    },
}
BESIDE = {
    "understanding": {"FLAGS_allocator_strategy": "auto_growth", "ACLNN_CACHE_LIMIT": "100000"},
    "generation": {},
}
DETERMINISM = {"npu_deterministic", "ACL_OP_DETERMINISTIC", "ACL_OPT_DETERMINISTIC", "HCCL_DETERMINISTIC"}
ONLY_TORCH_READS = {
    "TASK_QUEUE_ENABLE",
    "COMBINED_ENABLE",
    "CPU_AFFINITY_CONF",
    "NPU_ASD_ENABLE",
    "ASCEND_LAUNCH_BLOCKING",
}


@pytest.mark.parametrize("task", sorted(GUIDE))
def test_explain_prints_the_guide_s_variables(task: str, mix_core):
    done = mix_core("explain", "npu", "--workload", task, "--json", ASCEND_HOME_PATH="/nowhere")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout) if row["source"] != "core"}
    assert {name: row["value"] for name, row in rows.items()} == GUIDE[task] | BESIDE[task]
    for name, row in rows.items():
        source = "MindSpeed-MM" if name == "ACLNN_CACHE_LIMIT" else "guide"
        assert source in row["reason"] and row["source"] == "plugin npu", row


def test_values_of_the_user_stay(mix_core):
    done = mix_core(
        "explain", "npu", "--json", FLAGS_npu_jit_compile="1", CUSTOM_DEVICE_BLACK_LIST="cumsum,set_value"
    )
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["FLAGS_npu_jit_compile"]["value"] == "1"
    assert "plugin npu would have 0" in rows["FLAGS_npu_jit_compile"]["reason"]
    assert rows["CUSTOM_DEVICE_BLACK_LIST"]["value"] == "cumsum,set_value,set_value_with_tensor"


@pytest.mark.parametrize("text", ["119", "7201", "-200", "2 min", "600.5", ""])
def test_a_connect_timeout_that_hccl_refuses_is_refused(text: str, mix_core):
    done = mix_core("explain", "npu", HCCL_CONNECT_TIMEOUT=text)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        f"error: HCCL_CONNECT_TIMEOUT={text!r}: HCCL takes whole seconds from 120 to 7200"
    )


@pytest.mark.parametrize("text", ["120", "7200"])
def test_a_connect_timeout_at_the_limits_is_taken(text: str, monkeypatch):
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", text)
    assert settings.environment(Workload())


def test_a_simulated_device_refuses_the_timeout_too(monkeypatch):
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "60")
    with pytest.raises(BadInputError, match="from 120 to 7200"):
        settings.environment(Workload(simulate=True))


def test_several_processes_wait_longer_for_each_other():
    alone = settings.environment(Workload())
    together = settings.environment(Workload(world_size=8))
    assert {name: together[name].value for name in together.keys() - alone.keys()} == {
        "HCCL_CONNECT_TIMEOUT": 1200
    }


def test_determinism_is_a_switch():
    plain, exact = (settings.environment(Workload(deterministic=d)) for d in (False, True))
    assert exact.keys() - plain.keys() == DETERMINISM and plain.keys() <= exact.keys()
    assert {exact[name].value for name in DETERMINISM} == {"true"}  # the library compares with this word


def test_variables_that_only_torch_reads_are_never_set(monkeypatch, toolkit: Path):
    monkeypatch.setenv("ASCEND_HOME_PATH", str(toolkit))
    for task in ("understanding", "generation"):
        for mode in ("train", "infer"):
            workload = Workload(task=task, mode=mode, world_size=8, deterministic=True)
            assert not ONLY_TORCH_READS & settings.environment(workload).keys()


@pytest.fixture
def toolkit(tmp_path: Path) -> Path:
    """A CANN folder as its installer lays it out, without the parts for profiling."""
    root = tmp_path / "latest"
    for part in (
        "lib64/plugin/opskernel",
        "lib64/plugin/nnengine",
        f"opp/built-in/op_impl/ai_core/tbe/op_tiling/lib/linux/{platform.machine()}",
        "python/site-packages",
        "compiler/ccec_compiler/bin",
        "bin",
        f"{platform.machine()}-linux",
    ):
        (root / part).mkdir(parents=True)
    info = root / f"{platform.machine()}-linux" / "ascend_toolkit_install.info"
    info.write_text("package_name=Ascend-cann-toolkit\nversion=8.0.RC1\ninnerversion=V100R001C17\n")
    return root


def test_the_toolchain_s_variables_are_computed(toolkit: Path, mix_core):
    done = mix_core("explain", "npu", "--json", ASCEND_HOME_PATH=str(toolkit), LD_LIBRARY_PATH="/opt/own")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    tbe = f"{toolkit}/opp/built-in/op_impl/ai_core/tbe"
    wanted = {
        "ASCEND_TOOLKIT_HOME": f"{toolkit}",
        "ASCEND_HOME_PATH": f"{toolkit}",
        "ASCEND_AICPU_PATH": f"{toolkit}",
        "ASCEND_OPP_PATH": f"{toolkit}/opp",
        "TOOLCHAIN_HOME": f"{toolkit}/toolkit",
    }
    assert {name: rows[name]["value"] for name in wanted} == wanted
    libraries = rows["LD_LIBRARY_PATH"]["value"].split(":")
    assert libraries[0] == "/opt/own" and libraries[1:4] == [
        f"{toolkit}/lib64",
        f"{toolkit}/lib64/plugin/opskernel",
        f"{toolkit}/lib64/plugin/nnengine",
    ]
    assert f"{tbe}/op_tiling/lib/linux/{platform.machine()}" in libraries
    assert not any("tools/aml" in folder for folder in libraries), "this toolkit has no such folder"
    assert {rows[name]["stage"] for name in ("LD_LIBRARY_PATH", "PYTHONPATH")} == {"process"}
    assert rows["PYTHONPATH"]["value"].split(":")[-2:] == [f"{toolkit}/python/site-packages", tbe]
    assert rows["PATH"]["value"].split(":")[-2:] == [
        f"{toolkit}/bin",
        f"{toolkit}/compiler/ccec_compiler/bin",
    ]


def test_a_simulated_device_gets_no_toolchain(toolkit: Path, monkeypatch):
    monkeypatch.setenv("ASCEND_HOME_PATH", str(toolkit))
    real, simulated = (settings.environment(Workload(world_size=2, simulate=s)) for s in (False, True))
    assert "LD_LIBRARY_PATH" in real and "HCCL_CONNECT_TIMEOUT" in real
    assert set(simulated) == set(GUIDE["understanding"]) - {
        "FLAGS_use_stride_kernel",
        "CUSTOM_DEVICE_BLACK_LIST",
    } | {"ACLNN_CACHE_LIMIT"}


def test_where_cann_is_looked_for(toolkit: Path, tmp_path: Path):
    places = (str(tmp_path / "none"), str(toolkit))
    assert toolchain.find_toolkit({}, places) == toolkit
    assert toolchain.find_toolkit({"ASCEND_TOOLKIT_HOME": str(toolkit)}, ()) == toolkit
    assert toolchain.find_toolkit({"ASCEND_HOME_PATH": str(tmp_path)}, places) == toolkit, (
        "no toolkit in there"
    )
    assert toolchain.find_toolkit({}, (str(tmp_path / "none"),)) is None
    assert toolchain.toolkit_version(toolkit) == "8.0.RC1"
    assert toolchain.toolkit_version(tmp_path) is None
