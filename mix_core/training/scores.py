"""How good an answer is: texts against a text, boxes against boxes. All scores are in [0, 1]."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from mix_core.inference.grounding import Box, iou, match_score

ANLS_THRESHOLD = 0.5

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(answer: str, truth: str) -> float:
    """1 for the same text, blanks around it left out, else 0."""
    return float(answer.strip() == truth.strip())


def token_f1(answer: str, truth: str) -> float:
    """Harmonic mean of precision and recall over words: Rajpurkar et al., "SQuAD", 2016.

    Words are compared as there: lower case, without English articles and ASCII punctuation. 1 where neither
    text has a word, 0 where one has.
    """
    said, true = (_words(text) for text in (answer, truth))
    if not said or not true:
        return float(said == true)
    shared = sum((Counter(said) & Counter(true)).values())
    return 2 * shared / (len(said) + len(true))


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def anls(answer: str, truth: str) -> float:
    """Normalised Levenshtein similarity: Biten et al., "Scene Text Visual Question Answering" (ST-VQA), 2019.

    1 - distance / length of the longer text, in lower case with single blanks; 0 where that is below 0.5: the
    answer is then another text, not a misspelt one.
    """
    said, true = (" ".join(text.lower().split()) for text in (answer, truth))
    longer = max(len(said), len(true))
    similarity = 1.0 if longer == 0 else 1 - levenshtein(said, true) / longer
    return similarity if similarity >= ANLS_THRESHOLD else 0.0


def levenshtein(a: str, b: str) -> int:
    """Fewest characters to insert, remove or replace to make one text the other."""
    before = list(range(len(b) + 1))
    for row, left in enumerate(a, 1):
        now = [row]
        for column, right in enumerate(b, 1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (left != right)))
        before = now
    return before[-1]


def box_iou(answer: Sequence[Box], truth: Sequence[Box]) -> float:
    """Mean intersection over union of the best pairs (`grounding.match_score`)."""
    return match_score([box.corners for box in answer], [box.corners for box in truth])


def box_hits(answer: Sequence[Box], truth: Sequence[Box]) -> float:
    """Share of boxes with a partner of IoU above 0.5, missing and superfluous ones counted as misses.

    With one true box it is the accuracy of Yu et al., "Modeling Context in Referring Expressions" (RefCOCO),
    2016.
    """
    if not answer or not truth:
        return float(not answer and not truth)
    pairs = [(iou(a.corners, t.corners), i, j) for i, a in enumerate(answer) for j, t in enumerate(truth)]
    free_answers, free_truths, hits = set(range(len(answer))), set(range(len(truth))), 0
    for value, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if value > 0.5 and i in free_answers and j in free_truths:
            free_answers.remove(i)
            free_truths.remove(j)
            hits += 1
    return hits / max(len(answer), len(truth))


TEXT_SCORES = {"exact": exact_match, "f1": token_f1, "anls": anls}
BOX_SCORES = {"iou": box_iou, "iou50": box_hits}
DEFAULT = ("exact", "iou")
