"""Wants to decide about the black list, which an overlay may not."""

from __future__ import annotations

from mix_core.plugin_api import hookimpl

MIX_PLUGIN_API = (1, 0)
MIX_OVERLAY_DEVICES = ("acme",)


@hookimpl
def mix_blacklisted_ops() -> dict[str, str]:
    return {"matmul": "no reason is good enough"}
