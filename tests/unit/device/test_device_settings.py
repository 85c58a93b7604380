"""Composition of settings: who wins, what is united, what a child process sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mix_core.device import settings
from mix_core.device.settings import Layer, compose
from mix_core.device.values import AllocatorPolicy, Decision


def only(rows: list[settings.SettingRow]) -> settings.SettingRow:
    assert len(rows) == 1, rows
    return rows[0]


def layer(source: str = "plugin acme", **environment: Decision) -> Layer:
    return Layer(source, environment)


def test_a_plugin_s_decision_becomes_a_row():
    row = only(compose([layer(ACME_QUEUE=Decision(4, "busy", "process"))], {}))
    assert row.to_json() == {
        "name": "ACME_QUEUE",
        "value": "4",
        "reason": "busy",
        "source": "plugin acme",
        "kind": "environment",
        "stage": "process",
    }


def test_a_later_plugin_wins_and_the_user_wins_over_both():
    layers = [layer(ACME_QUEUE=Decision(4, "busy")), layer("overlay fast", ACME_QUEUE=Decision(8, "busier"))]
    assert (only(compose(layers, {})).value, only(compose(layers, {})).source) == ("8", "overlay fast")
    row = only(compose(layers, {"ACME_QUEUE": "1"}))
    assert row.value == "1"
    assert "user" in row.source and "overlay fast" in row.source
    assert "8" in row.reason and "busier" in row.reason


def test_a_user_who_agrees_is_named_too():
    row = only(compose([layer(ACME_QUEUE=Decision(4, "busy"))], {"ACME_QUEUE": "4"}))
    assert (row.value, row.source, row.reason) == ("4", "plugin acme, user", "busy")


def test_none_unsets_what_a_lower_plugin_set_but_not_what_the_user_set():
    layers = [layer(ACME_QUEUE=Decision(4, "busy")), layer("overlay", ACME_QUEUE=Decision(None, "harmful"))]
    assert only(compose(layers, {})).value is None
    assert "ACME_QUEUE" not in settings.exported(compose(layers, {}), {})
    assert only(compose(layers, {"ACME_QUEUE": "1"})).value == "1"


def test_lists_are_united_with_the_user_first_and_both_sources():
    layers = [
        Layer("plugin acme", blacklisted_ops={"set_value": "no bf16", "cumsum": "slow"}),
        Layer("plugin more", blacklisted_ops={"cumsum": "slow", "tril": "wrong"}),
    ]
    row = only(compose(layers, {settings.BLACKLIST: "matmul_v2,set_value"}))
    assert row.name == "CUSTOM_DEVICE_BLACK_LIST"
    assert row.value == "matmul_v2,set_value,cumsum,tril"
    assert row.source == "user, plugin acme, plugin more"
    assert "set_value: no bf16" in row.reason and "matmul_v2" in row.reason
    assert row.kind == "blacklist"


def test_path_lists_are_united_even_when_given_as_text():
    row = only(compose([layer(LD_LIBRARY_PATH=Decision("/a:/b", "libraries"))], {"LD_LIBRARY_PATH": "/b:/c"}))
    assert row.value == "/b:/c:/a"


def test_a_tuple_makes_any_variable_a_list():
    row = only(compose([layer(ACME_TOOLS=Decision(("/x", "/y"), "tools"))], {"ACME_TOOLS": "/z"}))
    assert row.value == "/z:/x:/y"


def test_allocator_and_stride_kernel_become_flags():
    policy = AllocatorPolicy("auto_growth", "fragmentation", {"FLAGS_chunk": Decision(64, "fewer calls")})
    composed = [Layer("plugin acme", allocator=policy, stride_kernel=Decision(False, "no strided copy"))]
    rows = {row.name: row for row in compose(composed, {})}
    assert rows["FLAGS_allocator_strategy"].value == "auto_growth"
    assert (rows["FLAGS_chunk"].value, rows["FLAGS_chunk"].kind) == ("64", "allocator")
    assert (rows["FLAGS_use_stride_kernel"].value, rows["FLAGS_use_stride_kernel"].kind) == (
        "0",
        "stride_kernel",
    )


def test_booleans_are_exported_as_digits():
    assert [settings.export(value, "X") for value in (True, False, 3, 0.5, None)] == [
        "1",
        "0",
        "3",
        "0.5",
        None,
    ]


NAMES = st.sampled_from(["A", "B", "C", "PATH", settings.BLACKLIST])
VALUES = st.text(alphabet="abc012,:", max_size=5)
DECISIONS = st.dictionaries(NAMES, st.one_of(st.none(), VALUES), max_size=5)
ENVIRONMENTS = st.dictionaries(
    st.sampled_from(["A", "B", "C", "D", "PATH", settings.BLACKLIST]), VALUES, max_size=6
)


@given(DECISIONS, ENVIRONMENTS)
def test_a_child_tells_our_variables_from_the_user_s(wanted: dict[str, str | None], user: dict[str, str]):
    environment = {name: Decision(value, "because") for name, value in wanted.items()}
    rows = compose([Layer("plugin acme", environment)], user)
    child = settings.exported(rows, user)
    assert settings.user_environment(child) == user
    assert compose([Layer("plugin acme", environment)], settings.user_environment(child)) == rows
    assert settings.exported(rows, child) == child
    assert settings.not_held(rows, ("import",), child) == []


def test_a_variable_changed_after_us_is_the_user_s_again():
    rows = compose([layer(ACME_QUEUE=Decision(4, "busy"))], {})
    child = settings.exported(rows, {}) | {"ACME_QUEUE": "2"}
    assert settings.user_environment(child) == {"ACME_QUEUE": "2"}


@pytest.mark.parametrize("text", ["", "no json", "[1]", '{"A": 1}', '{"A": ["x"]}'])
def test_foreign_text_in_the_ledger_is_ignored(text: str):
    assert settings.user_environment({settings.LEDGER: text, "A": "1"}) == {"A": "1"}


def test_runtime_settings_are_not_exported():
    rows = compose([layer(FLAGS_x=Decision(1, "later", "runtime"))], {})
    assert settings.exported(rows, {"A": "1"}) == {"A": "1"}


def test_the_initial_environment_is_that_of_the_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACME_LATE", "1")
    assert "ACME_LATE" not in settings.initial_environment()
    assert "PATH" in settings.initial_environment()


@pytest.mark.parametrize(
    ("text", "actual", "holds"),
    [
        ("0", False, True),
        ("True", True, True),
        ("1", False, False),
        ("64", 64, True),
        ("0.5", 0.5, True),
        ("a", 1, False),
        ("auto_growth", "auto_growth", True),
        ("x", "auto_growth", False),
    ],
)
def test_paddle_s_flags_are_compared_by_their_type(text: str, actual: object, holds: bool):
    assert settings.flag_holds(text, actual) is holds


def test_a_decision_without_a_reason_is_refused():
    with pytest.raises(ValueError, match="no reason"):
        Decision("1", " ")
    with pytest.raises(ValueError, match="stage 'later'"):
        Decision("1", "because", "later")  # type: ignore[arg-type]
