"""Text while it is being written: whole characters only, and nothing that a stop string may take back.

Imports no paddle. A character can be spread over several tokens, and a tokenizer may decode a token otherwise
at the beginning of a text than within it; so text is decoded in windows that begin at a settled token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mix_core.errors import BadInputError

Decode = Callable[[list[int]], str]

INCOMPLETE = "\ufffd"
"""What bytes that are not yet a character decode to."""


def check_stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    """One stop string or several, as a tuple. Raises BadInputError for an empty one."""
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(strings):
        raise BadInputError("a stop string is empty; give at least one character")
    return strings


def cut_at(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """`text` up to the first stop string in it, and whether there was one."""
    places = [place for string in stop if (place := text.find(string)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


class StopStrings:
    """Tells, token by token, when a row's text contains a stop string."""

    def __init__(self, stop: Sequence[str], decode: Decode) -> None:
        self.stop = tuple(stop)
        self._stream = TextStream(decode)
        self._tail = ""
        self._longest = max(map(len, self.stop), default=0)

    def met(self, token: int) -> bool:
        self._tail += self._stream.feed(token)
        _, found = cut_at(self._tail, self.stop)
        self._tail = self._tail[-self._longest :]
        return found


class TextStream:
    """Turns tokens into pieces of text as they come: `"".join(pieces)` is the text of all tokens.

    Args:
        decode: token ids -> text.
        stop: text from the first of these strings on is never given out; `stopped` then turns True.
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        self.decode = decode
        self.stop = tuple(stop)
        self.stopped = False
        self._settled: list[int] = []
        """The last tokens whose text was given out; the next ones are decoded together with them."""
        self._open: list[int] = []
        """Tokens whose text is not complete."""
        self._held = ""
        """Text that may be the beginning of a stop string."""

    def feed(self, token: int) -> str:
        """Add a token; return the text that is certain now, often one token's, sometimes none."""
        if self.stopped:
            return ""
        self._open.append(token)
        text = self._open_text()
        if text.endswith(INCOMPLETE):
            return ""
        self._settled = self._open if text else self._settled + self._open
        self._open = []
        return self._past_stops(text, final=False)

    def flush(self) -> str:
        """What is left when no token follows."""
        if self.stopped:
            return ""
        text = self._open_text() if self._open else ""
        self._open = []
        return self._past_stops(text, final=True)

    def _open_text(self) -> str:
        before = self.decode(self._settled) if self._settled else ""
        return self.decode(self._settled + self._open)[len(before) :]

    def _past_stops(self, text: str, *, final: bool) -> str:
        text, self.stopped = cut_at(self._held + text, self.stop)
        held = 0
        if not (final or self.stopped):
            held = max((_overlap(text, string) for string in self.stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `string`."""
    for length in range(min(len(text), len(string) - 1), 0, -1):
        if text.endswith(string[:length]):
            return length
    return 0
