"""The table of native kernels: from Paddle's list to operators.json, with the names of Paddle's kernels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mix_device_xpu import operators, refresh

# Three rows in the form of xpu3_op_list.cc: made up, but for the names that lead somewhere.
LIST = """
XPUOpMap& get_kl3_ops() {
  static XPUOpMap s_xpu3_kernels{
      {"elementwise_add",
       XPUKernelSet({phi::DataType::FLOAT32,
                     phi::DataType::BFLOAT16})},  // an old name
      {"add", XPUKernelSet({phi::DataType::INT64})},
      // {"tanh", XPUKernelSet({phi::DataType::FLOAT32})},
      {"c_allgather", XPUKernelSet({phi::DataType::BOOL})},
      {"matmul", XPUKernelSet({phi::DataType::FLOAT32})},
      {"fc_xpu", XPUKernelSet({phi::DataType::FLOAT16, phi::DataType::FLOAT16})},
  };
"""


def test_a_list_becomes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "list.cc").write_text(LIST)
    out = tmp_path / "operators.json"
    assert refresh.main([str(tmp_path / "list.cc"), "--commit", "abc", "--output", str(out)]) == 0
    assert "4 kernels, 1 on the chip alone" in capsys.readouterr().out
    made = json.loads(out.read_text())
    assert made["commit"] == "abc" and "xpu3_op_list.cc" in made["source"] and len(made["date"]) == 10
    assert made["operators"] == {
        "add": ["bfloat16", "float32", "int64"],
        "all_gather": ["bool"],
        "fc_xpu": ["float16"],
        "legacy_matmul": ["float32"],
    }
    assert made["legacy_names"] == {
        "c_allgather": "all_gather",
        "elementwise_add": "add",
        "matmul": "legacy_matmul",
    }
    assert made["chip_only"] == ["fc_xpu"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("int main() {}", "no row of the form"),
        ('{"add", XPUKernelSet({phi::DataType::FLOAT4})}', "\"add\" has the dtypes ['FLOAT4']"),
        ('{"add", XPUKernelSet({})}', '"add" has the dtypes none'),
    ],
)
def test_a_file_of_another_form_is_refused(text: str, said: str, tmp_path: Path, capsys):
    (tmp_path / "list.cc").write_text(text)
    out = tmp_path / "operators.json"
    assert refresh.main([str(tmp_path / "list.cc"), "--output", str(out)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not out.exists()
    assert refresh.main([str(tmp_path / "none.cc")]) == 2


def test_every_kernel_is_one_of_paddle_s_or_listed_as_the_chip_s_own():
    from paddle.base import core

    table = operators.support()
    kernels = set(core._get_registered_phi_kernels("all"))
    assert set(table["operators"]) - kernels == set(table["chip_only"])
    assert set(table["legacy_names"].values()) <= kernels
    assert not set(table["legacy_names"]) & set(table["chip_only"])
    # names that Paddle's own map of old operators does not lead to a kernel, each by our small table
    unknown = {n for n in table["legacy_names"] if core._get_phi_kernel_name(n) not in kernels}
    assert unknown == set(operators.LEGACY_NAMES) - {"reshape"}


def test_the_table_says_what_is_known_of_the_chip():
    table = operators.support()
    assert table["commit"] == "007a3de384d295bdd9e5dace96a4c0fc2e68ee88"
    of = table["operators"]
    assert of["conv2d"] == ["float16", "float32"] and of["group_norm"] == ["float32"]
    assert of["adamw"] == ["bfloat16", "float16", "float32"] == of["matmul"] == of["embedding"]
    assert "bernoulli" not in of and "unique_consecutive" not in of


def test_the_profile_agrees_with_the_table():
    from mix_device_xpu.profile import PROFILE

    of = operators.support()["operators"]
    for kernel, operator_class in (
        ("conv2d", "convolution"),
        ("conv3d", "convolution"),
        ("group_norm", "group_norm"),
        ("bilinear_interp", "interpolation"),
        ("matmul", "matmul"),
    ):
        assert set(PROFILE.dtypes.get(operator_class, PROFILE.dtypes["default"])) == set(of[kernel]), kernel
