"""Scores of answers against values worked out by hand from their papers' definitions."""

from __future__ import annotations

import pytest

from mix_core.inference.grounding import Box
from mix_core.training.evaluate import Marked, Question, mark, mean_scores, result_names
from mix_core.training.scores import anls, box_hits, box_iou, exact_match, levenshtein, token_f1


def test_exact_match():
    assert exact_match(" 7\n", "7") == 1 and exact_match("7.", "7") == 0


@pytest.mark.parametrize(
    "answer, truth, expected",
    [
        ("the cat sat", "A cat!", 2 * 1 / (2 + 1)),
        ("cat cat", "cat", 2 * 1 / (2 + 1)),
        ("dog", "cat", 0),
        ("", "cat", 0),
        ("the", "a", 1),
        ("Paris, France", "france paris", 1),
    ],
)
def test_f1_over_words(answer, truth, expected):
    assert token_f1(answer, truth) == pytest.approx(expected)


def test_levenshtein():
    assert levenshtein("kitten", "sitting") == 3 and levenshtein("", "abc") == 3 == levenshtein("abc", "")


@pytest.mark.parametrize(
    "answer, truth, expected",
    [
        ("Hello  World", "hello world", 1),
        ("hallo", "hello", 0.8),
        ("ab", "abcd", 0.5),
        ("a", "abcd", 0),
        ("", "", 1),
    ],
)
def test_anls_is_0_below_its_threshold(answer, truth, expected):
    assert anls(answer, truth) == pytest.approx(expected)


def test_boxes():
    truth = [Box("", 0, 0, 100, 100), Box("", 500, 500, 600, 600)]
    near, half = Box("", 0, 0, 100, 90), Box("", 500, 500, 600, 550)
    assert box_iou([near, half], truth) == pytest.approx((0.9 + 0.5) / 2)
    assert box_hits([near, half], truth) == 0.5, "an IoU of 0.5 itself is no hit"
    assert box_hits([near], truth) == 0.5 and box_hits([near, near], truth) == 0.5
    assert box_hits([], truth) == 0 and box_hits([], []) == 1


def test_the_chosen_scores_count_where_they_fit():
    text = Question("read", [], "hello", [])
    box = Question("find", [], "<box>(0,0),(100,100)</box>", [Box("", 0, 0, 100, 100)])
    marked = [mark(text, "hallo"), mark(box, "<box>(0,0),(100,90)</box>")]
    everything = mean_scores(marked, ("f1", "anls", "exact", "iou", "iou50"))
    assert everything == pytest.approx(
        {"read_f1": 0, "read_anls": 0.8, "read_exact": 0, "find_iou": 0.9, "find_iou50": 1}
    )
    assert mean_scores(marked) == pytest.approx({"read_exact": 0, "find_iou": 0.9})
    assert isinstance(marked[0], Marked) and marked[1].score == pytest.approx(0.9)


def test_the_names_of_results_are_known_before_any_answer():
    rows = [
        {
            "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": truth}],
            "task": task,
        }
        for task, truth in (("read", "x"), ("find", "<box>(0,0),(9,9)</box>"))
    ]
    assert result_names(rows, generates=True, metrics=("exact", "f1", "iou")) == [
        *("read_exact", "read_f1", "find_iou", "loss")
    ]
    assert result_names(rows, generates=False, metrics=("exact",)) == ["loss"]
    assert result_names([], generates=True, metrics=("exact",)) == []
