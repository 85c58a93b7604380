"""Ends the process when it is imported, as a library with a bad symbol does."""

from __future__ import annotations

import os

os.abort()
