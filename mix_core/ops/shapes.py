"""Reshaping on the hot path."""

from __future__ import annotations

from paddle import _C_ops

reshape = _C_ops.reshape
"""``reshape(x, shape)``: a tensor's method checks its arguments first, which costs more than the act."""
