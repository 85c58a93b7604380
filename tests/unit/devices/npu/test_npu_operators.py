"""The table of native kernels: what is missing on the chip can be read from it, and it can be made anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mix_core.plugin_api import BadInputError
from mix_device_npu import operators, plugin, refresh

# What multimodal models use and the backend of October 2024 lacks, as found by reading its sources by hand.
MISSING = (
    "bernoulli",
    "bicubic_interp",
    "repeat_interleave",
    "unique_consecutive",
    "outer",
    "flash_attn",
    "flash_attn_unpadded",
    "fused_rotary_position_embedding",
)
NO_BFLOAT16 = (
    "conv3d",
    "bilinear_interp",
    "group_norm",
    "dropout",
    "clip",
    "cumsum",
    "log_softmax",
    "masked_select",
    "linspace",
    "nll_loss",
    "set_value",
    "rms_norm",
)
HAS_BFLOAT16 = ("adamw", "matmul", "conv2d", "softmax", "swiglu", "layer_norm", "embedding", "silu", "gelu")


@pytest.fixture(scope="module")
def table() -> dict[str, list[str]]:
    return plugin.mix_operator_support()["operators"]


def test_the_known_gaps_are_in_the_table(table):
    assert [op for op in MISSING if op in table] == []
    assert [op for op in NO_BFLOAT16 if "bfloat16" in table[op]] == []
    assert [op for op in HAS_BFLOAT16 if "bfloat16" not in table[op]] == []
    assert table["nll_loss"] == ["float32", "float64"]
    assert table["rms_norm"] == ["float16"]
    assert "bool" not in table["set_value"], "one reason for the black list"


def test_the_table_says_where_and_when_it_comes_from(table):
    raw = operators.read_table()
    assert len(raw["commit"]) == 40 and raw["date"] == "2024-10-18" and len(table) == 357
    source = plugin.mix_operator_support()["source"]
    assert raw["commit"][:8] in source and "github.com/PaddlePaddle/PaddleCustomDevice" in source
    known = set(refresh.ORDER)
    assert {dtype for dtypes in table.values() for dtype in dtypes} <= known


# Kernels of Paddle that its CPU wheel lacks.
ON_DEVICES_ALONE = {
    "blha_get_max_len",
    "block_multihead_attention",
    "fused_bias_act",
    "fused_gemm_epilogue",
    "fused_gemm_epilogue_grad",
    "fused_linear_param_grad_add",
    "masked_multihead_attention",
    "rms_norm",
    "top_p_sampling",
    "variable_length_memory_efficient_attention",
}


def test_names_are_those_of_paddle_s_kernels(table):
    from paddle.base import core

    assert table.keys() - set(core._get_registered_phi_kernels("all")) == ON_DEVICES_ALONE


SOURCES = {
    "abs_kernel.cc": """
// PD_REGISTER_PLUGIN_KERNEL(commented, npu, ALL_LAYOUT, custom_kernel::X, float) {}
PD_REGISTER_PLUGIN_KERNEL(abs,
                          npu,
                          ALL_LAYOUT,
                          custom_kernel::AbsKernel,
                          float,
#if (CANN_VERSION_CODE >= 700000)
                          phi::dtype::float16,
#else
#endif
                          phi::dtype::complex<float>,
                          int64_t) {
  kernel->InputAt(0).SetBackend(phi::Backend::ALL_BACKEND);
}
PD_REGISTER_PLUGIN_KERNEL(elsewhere, custom_cpu, ALL_LAYOUT, custom_kernel::X, float) {}
""",
    "fusion/compare_kernel.cc": """
#define REGISTER_COMPARE(name, func)                                \\
  PD_REGISTER_PLUGIN_KERNEL(name, npu, ALL_LAYOUT,                  \\
                            custom_kernel::func##Kernel, bool, int) {} \\
  PD_REGISTER_PLUGIN_KERNEL(name##_raw, npu, ALL_LAYOUT,            \\
                            custom_kernel::func##RawKernel, phi::dtype::bfloat16) {}

REGISTER_COMPARE(less_than, LessThan)
REGISTER_COMPARE(equal, Equal)
""",
    "abs_more_kernel.cc": "PD_REGISTER_PLUGIN_KERNEL(abs, npu, ALL_LAYOUT, custom::A<T, C>, double) {}",
}
WANTED = {
    "abs": ["float32", "float64", "float16", "int64", "complex64"],
    "equal": ["int32", "bool"],
    "equal_raw": ["bfloat16"],
    "less_than": ["int32", "bool"],
    "less_than_raw": ["bfloat16"],
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A made-up source tree in the vendor's style of registration."""
    for name, text in SOURCES.items():
        path = tmp_path / "backends" / "npu" / "kernels" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_registrations_are_read_from_sources(checkout: Path):
    assert refresh.read_kernels(checkout) == WANTED


def test_an_unknown_type_is_named(checkout: Path):
    path = checkout / "backends/npu/kernels/new_kernel.cc"
    path.write_text(
        "PD_REGISTER_PLUGIN_KERNEL(new, npu, ALL_LAYOUT, custom_kernel::N, phi::dtype::float8) {}"
    )
    with pytest.raises(BadInputError, match=r"\(new\): unknown type 'phi::dtype::float8'"):
        refresh.read_kernels(checkout)


def test_the_module_prints_what_a_refresh_would_change(checkout: Path, start):
    done = start(["-m", "mix_device_npu.refresh", str(checkout)], plugins=["../../mix_device_npu"])
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[-1].startswith("5 kernels at unknown, ")
    assert "- zeros" not in lines and "- where" in lines
    assert "! abs: float32 float64 float16 bfloat16 int64 -> float32 float64 float16 int64 complex64" in lines
    assert operators.read_table()["operators"].keys() > WANTED.keys(), "nothing was written"


def test_a_folder_without_sources_is_bad_input(tmp_path: Path, start):
    done = start(["-m", "mix_device_npu.refresh", str(tmp_path)], plugins=["../../mix_device_npu"])
    assert done.returncode == 2 and "give the root of a PaddleCustomDevice checkout" in done.stderr


def test_a_written_table_reads_back(checkout: Path, tmp_path: Path):
    table = refresh.make_table(checkout)
    refresh.write_table(table, tmp_path / "table.json")
    assert json.loads((tmp_path / "table.json").read_text()) == table
    assert refresh.differences({"a": ["x"], "b": ["x"]}, {"b": ["y"], "c": ["x"]}) == [
        "+ c: x",
        "- a",
        "! b: x -> y",
    ]
