"""The conformance suite: whether a device's plugin is right, and how far. docs/conformance.md is its manual.

`case.py` is what cases are made of; one module a level holds them; `runner.py` runs them in child processes.
"""

LEVEL_MODULES = (
    "contract",
    "on_runtime",
    "on_operators",
    "on_replaceable",
    "on_models",
    "on_training",
    "on_ranks",
)
"""The modules of cases, one a level."""
