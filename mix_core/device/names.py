"""Device names as users write them: `NAME`, `NAME:INDEX`, `auto`. One parser, exact match, no substrings."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mix_core.errors import BadInputError

AUTO = "auto"
_FORM = re.compile(r"([a-z][a-z0-9_]*)(?::(0|[1-9][0-9]{0,5}))?")


@dataclass(frozen=True)
class DeviceName:
    """A device's name and, when given, an index into its visible devices."""

    name: str
    index: int | None = None

    def __str__(self) -> str:
        return self.name if self.index is None else f"{self.name}:{self.index}"


def parse_device(text: str) -> DeviceName:
    """Parse `NAME` or `NAME:INDEX`.

    Raises BadInputError for any other form: blanks, capitals, signs, leading zeros, an index behind `auto`.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise BadInputError(
            f"device {text!r} is not of the form NAME or NAME:INDEX "
            "(small letters, digits and _; for example cpu or cpu:0)"
        )
    name, index = match.groups()
    if name == AUTO and index is not None:
        raise BadInputError(f"device {text!r}: auto chooses by itself and takes no index")
    return DeviceName(name, None if index is None else int(index))
