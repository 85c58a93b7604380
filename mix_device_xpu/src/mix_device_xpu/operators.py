"""The chip's table of native kernels: `operators.json`, made from Paddle's own list by refresh.py.

Paddle's list uses old operator names for most kernels. The file holds kernel names, `legacy_names` what the
list called them; `chip_only` are kernels without a counterpart in Paddle's CPU wheel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("operators.json")

LEGACY_NAMES = {
    "c_allgather": "all_gather",
    "c_alltoall": "all_to_all",
    "c_reduce_sum": "reduce",
    "flatten_contiguous_range_grad": "flatten_grad",
    "prod_raw": "prod",
    "reshape": "reshape",
}
"""Names of the list that Paddle's own map of old names (`_get_phi_kernel_name`) does not lead to a kernel."""


def support() -> Mapping[str, Any]:
    """The parsed file: source, commit, date, operators (kernel to dtypes), legacy_names, chip_only."""
    return json.loads(FILE.read_text(encoding="utf-8"))
