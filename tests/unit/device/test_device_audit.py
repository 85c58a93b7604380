"""The judgement of an audit: where a chip would run a kernel, from tables alone."""

from __future__ import annotations

import pytest

from mix_core.device.audit import Called, Chip, judge
from mix_core.device.audit_kernels import ask, sorted_out
from tests.environment import clean_environment

CHIP = Chip(
    table={"matmul": ["float32", "bfloat16"], "clip": ["float32"], "write": ["float32"], "gather": ["int64"]},
    black_list=frozenset({"write"}),
    everywhere={"view": ["bfloat16"]},
    cpu={"clip": ["float32", "float64"], "write": ["float32"], "unique": ["int64"], "gather": ["int32"]},
)


@pytest.mark.parametrize(
    ("kernel", "dtype", "verdict", "missing"),
    [
        ("matmul", "bfloat16", "native", None),
        ("view", "bfloat16", "native", None),
        ("clip", "float64", "falls back", "dtype"),
        ("clip", "bfloat16", "stops", "dtype"),
        ("unique", "int64", "falls back", "kernel"),
        ("unique", "bfloat16", "stops", "kernel"),
        ("write", "float32", "black-listed", None),
        ("write", "bfloat16", "stops", "dtype"),
    ],
)
def test_where_a_kernel_would_run(kernel, dtype, verdict, missing):
    [row] = judge([Called(kernel, dtype, 1, 8)], CHIP).rows
    assert (row.verdict, row.missing) == (verdict, missing)
    assert bool(row.advice) == (verdict != "native")


def test_the_worst_comes_first_and_calls_of_all_processes_add_up():
    called = [
        Called("matmul", "float32", 3, 9),
        Called("unique", "int64", 1, 5),
        Called("clip", "bfloat16", 1, 1),
    ]
    audited = judge([*called, Called("unique", "int64", 2, 7), Called("write", "float32", 1, 100)], CHIP)
    order = [(row.kernel, row.verdict, row.calls, row.bytes) for row in audited.rows]
    assert order == [
        ("clip", "stops", 1, 1),
        ("write", "black-listed", 1, 100),
        ("unique", "falls back", 3, 12),
        ("matmul", "native", 3, 9),
    ]
    assert audited.moved_bytes == 112 and len(audited.gaps) == 3


def test_a_device_without_a_table_has_every_kernel():
    audited = judge([Called("anything", "float16", 1, 1)], Chip(table=None))
    assert audited.gaps == () and audited.rows[0].missing is None


@pytest.mark.parametrize(
    ("kernel", "dtype", "advice"),
    [
        ("clip", "bfloat16", "cast to float32 before it and back after"),
        ("gather", "int32", "cast to int64 before it and back after"),
        ("clip_grad", "float32", "use operators that the chip has"),
        ("unique", "int64", "make them with numpy"),
        ("bicubic_interp_grad", "float32", "resize on the host"),
    ],
)
def test_what_to_do(kernel, dtype, advice):
    assert advice in judge([Called(kernel, dtype, 1, 1)], CHIP).rows[0].advice


def test_paddle_s_own_list_is_sorted_out():
    keys = ["(CPU, Undefined(AnyLayout), float32)", "(CUSTOM, STRIDED, bool)", "(ONEDNN, ONEDNN, bfloat16)"]
    assert sorted_out({"slice": keys}) == {
        "cpu": {"slice": ["float32"]},
        "everywhere": {"slice": ["bool"]},
    }


def test_paddle_tells_its_kernels_and_what_a_black_list_means():
    answer = ask(["elementwise_add", "add", "set_value", "nonsense"], clean_environment())
    assert answer["names"] == {"elementwise_add": "add", "set_value": "set_value"}, "others have no effect"
    assert "float32" in answer["cpu"]["matmul"] and "bfloat16" not in answer["cpu"]["matmul"]
    assert "bfloat16" in answer["everywhere"]["view_shape"] and "matmul" not in answer["everywhere"]
