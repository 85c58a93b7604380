"""The rotary base of a long sequence."""

from __future__ import annotations


def ntk_theta(theta: float, factor: float, length: int, trained: int, head_dim: int) -> float:
    """The rotary base for a sequence of `length` tokens: `theta` up to the `trained` length, larger beyond.

    Dynamic NTK scaling, as InternLM2's published code and transformers' "dynamic" rope have it.
    """
    if length <= trained:
        return theta
    return theta * (factor * length / trained - (factor - 1)) ** (head_dim / (head_dim - 2))
