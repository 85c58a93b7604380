"""Device names: exact forms only, and what is written parses to itself."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mix_core.device.names import DeviceName, parse_device
from mix_core.errors import BadInputError

LETTERS = string.ascii_lowercase
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
INDICES = st.one_of(st.none(), st.integers(0, 999_999))


@given(NAMES, INDICES)
def test_a_name_that_is_written_parses_to_itself(name: str, index: int | None):
    if name == "auto":
        index = None
    wanted = DeviceName(name, index)
    assert parse_device(str(wanted)) == wanted


@given(NAMES, NAMES)
def test_a_longer_name_is_another_device(prefix: str, name: str):
    assert parse_device(f"{prefix}_{name}").name == f"{prefix}_{name}"
    assert parse_device(f"{prefix}_{name}") != parse_device(name)


@given(st.text(alphabet=LETTERS + string.digits + "_:-+. ANPU\n", max_size=12))
def test_whatever_parses_is_written_the_same(text: str):
    try:
        parsed = parse_device(text)
    except BadInputError as error:
        assert repr(text) in str(error)
    else:
        assert str(parsed) == text


@pytest.mark.parametrize(
    "text",
    ["", "NPU", "npu:", "npu:-1", "npu:01", "npu:1:2", "npu: 1", " npu", "npu\n", "npu,xpu", "1npu", "npu:x"],
)
def test_other_forms_are_refused(text: str):
    with pytest.raises(BadInputError, match="NAME or NAME:INDEX"):
        parse_device(text)


def test_the_examples_of_the_design():
    assert parse_device("npu:1") == DeviceName("npu", 1)
    assert parse_device("iluvatar_gpu").name == "iluvatar_gpu"
    with pytest.raises(BadInputError, match="takes no index"):
        parse_device("auto:0")
