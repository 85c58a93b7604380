"""The chip's table of native kernels: operators.json, made by refresh.py from the vendor's sources.

The vendor registers kernels under Paddle's kernel names, so no table of old operator names is needed; what
the CPU wheel does not know (ten fused kernels for inference) exists on devices alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("operators.json")


def read_table() -> dict[str, Any]:
    """The file as it is: source, commit, date, and operator to dtypes."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


def operator_support() -> Mapping[str, Any]:
    """What `mix_operator_support` returns. A name that is missing runs on the CPU at that commit."""
    table = read_table()
    source = f"{table['source']}; commit {table['commit'][:8]} of {table['date']}"
    return {"source": source, "operators": table["operators"]}
