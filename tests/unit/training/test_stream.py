"""Steps made of the loader's batches, rows from the configuration, and the record of a run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mix_core.config import RunConfig, load_config
from mix_core.errors import ConfigError, DataError
from mix_core.training import record
from mix_core.training.lengths import about_length
from mix_core.training.rows import Rows, read_meta, read_rows
from mix_core.training.run_folder import RunFolder
from mix_core.training.stream import StepStream, row_order
from tests.builders.checkpoints import write_checkpoint


def rows_of(texts: list[str], sizes: list[int] | None = None) -> Rows:
    rows = [
        {
            "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}],
            "source": f"test row {i}",
        }
        for i, text in enumerate(texts)
    ]
    return Rows(rows, sizes or [len(rows)], [], [], [])


def config_of(**keys: str) -> RunConfig:
    return load_config(arguments={"max_length": "200", "per_device_train_batch_size": "2", **keys})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"))


def stream(folder: Path, rows: Rows, config: RunConfig, position: int = 0, waiting=()) -> StepStream:
    from mix_core.training.stream import make_processor

    processor = make_processor(str(folder), {})
    return StepStream(rows, processor, folder, config, position=position, waiting=waiting, workers=0)


def visits(step) -> list[int]:
    return [int(i) for batch in step.passes for i in batch["sample_ids"]]


def test_steps_gather_passes_and_end_with_the_epoch(folder):
    """7 rows, passes of 2, 3 passes a step: 6 rows, then the one that is left."""
    made = stream(folder, rows_of(list("abcdefg")), config_of(gradient_accumulation_steps="3"))
    first, second, third = (made.next_step() for _ in range(3))
    assert [len(step.passes) for step in (first, second, third)] == [3, 1, 3]
    assert (first.ends_epoch, second.ends_epoch, third.ends_epoch) == (False, True, False)
    assert [step.epoch for step in (first, second, third)] == pytest.approx([6 / 7, 1.0, 13 / 7])
    assert visits(first) + visits(second) == list(range(7)) and visits(third) == list(range(7, 13))
    assert first.tokens == sum(int(batch["attention_mask"].sum()) for batch in first.passes)


@pytest.mark.parametrize("keys", [{}, {"packing": "true"}, {"shuffle": "false"}, {"data_seed": "5"}])
def test_a_stream_goes_on_where_another_stopped(folder, keys):
    rows, config = rows_of([c * (1 + i) for i, c in enumerate("abcdefgh")]), config_of(**keys)
    straight = stream(folder, rows, config)
    steps = [straight.next_step() for _ in range(5)]
    stopped = stream(folder, rows, config)
    stopped.next_step(), stopped.next_step()
    resumed = stream(folder, rows, config, position=stopped.position, waiting=stopped.waiting)
    for expected in steps[2:]:
        step = resumed.next_step()
        assert visits(step) == visits(expected)
        for batch, other in zip(step.passes, expected.passes):
            assert batch.keys() == other.keys()
            for name in batch:
                np.testing.assert_array_equal(batch[name], other[name])


def test_batch_of_eight_and_four_passes_of_two_see_the_same_samples(folder):
    rows = rows_of(list("abcdefghijklm"))
    whole = stream(folder, rows, config_of(per_device_train_batch_size="8"))
    parts = stream(folder, rows, config_of(gradient_accumulation_steps="4"))
    for _ in range(4):
        assert visits(whole.next_step()) == visits(parts.next_step())


def test_steps_in_epochs(folder):
    made = stream(folder, rows_of(list("abcdefg")), config_of(gradient_accumulation_steps="3"))
    assert [made.steps_in(epochs) for epochs in (0.1, 0.5, 1.0, 2.5)] == [1, 1, 2, 5]


def test_a_bad_row_leaves_the_position_at_the_step_before_it(folder):
    rows = rows_of(["a", "b", "c", "x " * 500, "e"])
    made = stream(folder, rows, config_of(shuffle="false", per_device_train_batch_size="1"))
    for _ in range(3):
        made.next_step()
    with pytest.raises(DataError, match="test row 3: it has"):
        made.next_step()
    assert made.position == 3


def test_resampling_draws_by_the_square_root_of_the_size():
    rows = rows_of(["a"] * 100, sizes=[90, 10])
    plain, drawn = (row_order(rows, config_of(**keys)) for keys in ({}, {"use_data_resampling": "true"}))
    assert sorted(plain.epoch(0)) == list(range(100))
    small = sum(row >= 90 for row in drawn.epoch(0))
    assert small == round(100 * math.sqrt(10) / (math.sqrt(90) + math.sqrt(10)))


def test_grouping_puts_rows_of_like_length_together():
    rows = rows_of(["a" * (1 + i % 7) ** 3 for i in range(70)])
    order = row_order(rows, config_of(group_by_length="true", per_device_train_batch_size="10"))
    lengths = np.array([about_length(row) for row in rows.train])[order.epoch(0)]
    assert all(len(set(lengths[i : i + 10])) == 1 for i in range(0, 70, 10))


def write_rows(path: Path, count: int) -> Path:
    path.write_text(json.dumps([{"messages": rows_of(["a"]).train[0]["messages"]} for _ in range(count)]))
    return path


def test_rows_from_every_kind_of_specification(tmp_path):
    a, b = write_rows(tmp_path / "a.json", 3), write_rows(tmp_path / "b.json", 5)
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({"a": {"annotation": str(a), "repeat_time": 2}, "b": {"file_name": str(b)}}))
    tiled = tmp_path / "tiled.json"
    tiled.write_text(json.dumps({"a": {"annotation": str(a), "max_dynamic_patch": 6, "length": 3}}))
    assert [row["max_dynamic_patch"] for row in read_rows(config_of(meta_path=str(tiled))).train] == [6] * 3
    for keys, sizes in (
        ({"data_path": f"{a},{b}#2"}, [3, 2]),
        ({"meta_path": str(meta)}, [3, 5]),
        ({"dataset": json.dumps([{"name": "chatml_dataset", "data_files": str(b), "max_samples": 4}])}, [4]),
        ({"data_path": f"{a},{b}", "max_samples": "2"}, [2, 2]),
    ):
        rows = read_rows(config_of(**keys))
        assert rows.train_sizes == sizes and len(rows.train) == sum(sizes) and rows.eval == []
    rows = read_rows(config_of(data_path=str(a), **{"dataset.eval": str(b)}))
    assert (len(rows.train), len(rows.eval)) == (3, 5)
    told = rows.to_json()
    assert told["eval"]["rows"] == 5 and len(told["train"]["files"][str(a)]) == 64
    only = read_rows(config_of(do_train="false", **{"dataset.eval": str(b)}))
    assert (len(only.train), len(only.eval)) == (0, 5)


def test_rows_that_are_not_named_or_not_there(tmp_path):
    with pytest.raises(ConfigError, match="no rows to train on"):
        read_rows(config_of())
    with pytest.raises(DataError, match=r"meta_path .* cannot be read"):
        read_rows(config_of(meta_path=str(tmp_path / "none.json")))
    (tmp_path / "meta.json").write_text('{"a": {"repeat_time": 1}}')
    with pytest.raises(DataError, match=r"expected \{name: \{annotation or file_name"):
        read_meta(str(tmp_path / "meta.json"))
    (tmp_path / "meta.json").write_text('{"a": {"annotation": "a.json", "max_dynamic_patch": 0.5}}')
    with pytest.raises(DataError, match=r"set 'a': max_dynamic_patch is 0.5, expected a whole number"):
        read_meta(str(tmp_path / "meta.json"))


def test_a_command_to_type_again():
    command = ["python", "-m", "mix_core.train", "c.json", "--resume", "no", "--lr", "1", "resume=x"]
    assert (
        record.command_text(command, resume="auto") == "python -m mix_core.train c.json --lr 1 --resume auto"
    )
    spaced = [*command[:3], "my c.json", "--overwrite_output_dir"]
    again = record.command_text(spaced, resume="auto", overwrite_output_dir="false")
    assert again == "python -m mix_core.train 'my c.json' --resume auto --overwrite_output_dir false"


def test_only_keys_that_matter_make_another_run(tmp_path):
    config = config_of(output_dir="a")
    before = config.model_dump(mode="json")
    assert record.changed_keys(before, config_of(output_dir="b", resume="auto", logging_steps="3")) == {}
    assert record.changed_keys(before, config_of(seed="7")) == {"seed": (42, 7)}
    with RunFolder(tmp_path) as folder:
        assert record.finished_results(folder, config) is None
        folder.write_json("results.json", {"digit_exact": 0.5})
        folder.write_json("run.json", {"status": "finished", "configuration": before})
        assert record.finished_results(folder, config) is None
        (tmp_path / "report.html").write_text("report")
        assert record.finished_results(folder, config) == {"digit_exact": 0.5}
        assert record.finished_results(folder, config_of(seed="7")) is None
        folder.write_json("run.json", {"status": "interrupted", "configuration": before})
        assert record.finished_results(folder, config) is None


def test_versions_name_every_paddle():
    found = record.versions()
    assert {"python", "system", "mix-core", "paddlepaddle", "numpy"} <= found.keys()
