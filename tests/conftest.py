"""Session set-up: the CPU plugin's settings are in the environment before any test imports paddle."""

from __future__ import annotations

import os
import sys

import pytest

from mix_core.device import choice, composition, settings
from mix_core.device.values import Workload


def pytest_configure(config: pytest.Config) -> None:
    """Compose the CPU's settings as activation would, without importing paddle.

    Activation then finds them in place, in this process and in the processes that tests start.
    """
    if "paddle" in sys.modules:
        raise pytest.UsageError(
            "paddle was imported before tests/conftest.py could put its settings in place"
        )
    user = settings.user_environment(os.environ)
    candidate = choice.choose("cpu", None, user).candidate
    rows = composition.compose(candidate, Workload(), user).rows
    settings.apply(settings.exported(rows, os.environ), os.environ)
