"""In which dtype a run computes and keeps its parameters: O0, O1 and O2 of `fp16_opt_level`.

| level | parameters | matrix products | norms, residual stream | masters |
|---|---|---|---|---|
| O0 | float32 | float32 | float32 | - |
| O1 | float32 | 16 bits | float32 | - |
| O2 | 16 bits | 16 bits | 16 bits, statistics float32 | float32 |

Micikevicius et al., "Mixed Precision Training", 2018. docs/precision.md says what each costs.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mix_core.errors import ConfigError

if TYPE_CHECKING:
    from mix_core.config import RunConfig
    from mix_core.device import Activation
    from mix_core.training.loss_scale import LossScale


@dataclass(frozen=True)
class Precision:
    """What the keys `dtype` and `fp16_opt_level` mean for a run."""

    dtype: str = "float32"
    """Of matrix products."""
    level: str = "O0"
    initial_scale: float = 32768.0
    """First loss scale, where there is one."""

    @classmethod
    def of(cls, config: RunConfig, activation: Activation) -> Precision:
        """What the configuration asks of the device.

        Raises:
            ConfigError: the device does not compute in this dtype, or the keys contradict each other.
        """
        if config.dtype == "float32":
            return cls()
        if config.fp16_opt_level == "O0":
            raise ConfigError(
                f"fp16_opt_level O0 computes in float32, but dtype is {config.dtype}; give O1 or O2, or "
                "--dtype float32"
            )
        if not activation.profile.supports_dtype(config.dtype):
            can = ", ".join(activation.profile.dtypes["default"])
            raise ConfigError(
                f"dtype is {config.dtype}, but device {activation.name} computes in {can}; give --dtype "
                "float32"
            )
        return cls(config.dtype, config.fp16_opt_level, config.scale_loss)

    @property
    def parameter_dtype(self) -> str:
        """Of the model's parameters while it trains, and of the weights that are published."""
        return self.dtype if self.level == "O2" else "float32"

    def narrow(self, model: Any) -> dict[str, Any]:
        """Bring the model's parameters to their dtype.

        Returns:
            The float32 values of those that learn, by name; {} where they stay float32.
        """
        if self.parameter_dtype == "float32":
            return {}
        masters = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if not parameter.stop_gradient
        }
        model.to(dtype=self.dtype)
        return masters

    def computing(self) -> AbstractContextManager[None]:
        """Around forward and backward passes, evaluation too."""
        if self.level != "O1":
            return nullcontext()
        import paddle

        from mix_core.ops.dtypes import products_in

        return products_in(getattr(paddle, self.dtype))

    def loss_scale(self) -> LossScale | None:
        """A new loss scale, where gradients need one: float16 has no numbers below 6e-8."""
        if self.dtype != "float16":
            return None
        from mix_core.training.loss_scale import LossScale

        return LossScale(self.initial_scale)
