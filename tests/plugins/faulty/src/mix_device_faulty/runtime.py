"""The runtime: Paddle's own, and what may be wrong with it."""

from __future__ import annotations

from typing import Any

from mix_core.plugin_api import PaddleRuntime


class FaultyRuntime(PaddleRuntime):
    def __init__(self, index: int, defect: str) -> None:
        super().__init__("faulty", index)
        self.defect = defect
        self.kept: list[Any] = []

    def synchronize(self) -> None:
        if self.defect == "synchronize_raises":
            raise OSError("queue 2 is gone")
        super().synchronize()

    def memory_stats(self) -> dict[str, int]:
        found = super().memory_stats()
        if self.defect == "statistics_constant":
            return {"allocated": 1 << 20, "peak": 1 << 20}
        if self.defect == "statistics_half":
            return {name: value // 2 for name, value in found.items()}
        if self.defect == "statistics_never_fall":
            return found | {"allocated": found["peak"]}
        if self.defect == "no_peak":
            return {"allocated": found["allocated"]}
        if self.defect == "leak":
            import paddle

            self.kept.append(paddle.ones([1 << 18]))
        return found

    def reset_peak_memory(self) -> None:
        if self.defect != "peak_not_reset":
            super().reset_peak_memory()

    def empty_cache(self) -> None:
        if self.defect == "empty_cache_raises":
            raise RuntimeError("not supported")
        super().empty_cache()

    def get_random_state(self) -> dict[str, Any]:
        state = super().get_random_state()
        return {
            k: v
            for k, v in state.items()
            if not (self.defect == "random_state_partial" and k.startswith("host"))
        }

    def set_random_state(self, state: Any) -> None:
        if self.defect == "random_state_not_restored":
            return
        if self.defect == "random_state_partial":
            host = super().get_random_state()
            state = {**{k: v for k, v in host.items() if k.startswith("host")}, **state}
        super().set_random_state(state)

    def properties(self) -> dict[str, Any]:
        return {} if self.defect == "no_name" else {"name": "Faulty One"}
