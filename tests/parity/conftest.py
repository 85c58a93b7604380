"""At the end of a session: how near each family's logits and gradients came to the peer's."""

from __future__ import annotations

import sys
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    agreement = sys.modules.get("tests.parity.agreement")
    for file, kinds in sorted(getattr(agreement, "MEASURED", {}).items()):
        figures = ", ".join(f"{kind} {value:.1e}" for kind, value in sorted(kinds.items()))
        terminalreporter.write_line(f"parity of {file}: {figures} at most, relative in norm")
