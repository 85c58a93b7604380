"""In which dtype a run computes and keeps its parameters: O0, O1 and O2 of `fp16_opt_level`.

| level | parameters | matrix products | norms, residual stream | masters |
|---|---|---|---|---|
| O0 | float32 | float32 | float32 | - |
| O1 | float32 | 16 bits | float32 | - |
| O2 | 16 bits | 16 bits | 16 bits, statistics float32 | float32 |

A device without 16-bit tensors may still multiply in 16 bits (class `products` of its profile's
`dtypes`): O1 then leaves every tensor float32 and narrows the factors inside the product.

Micikevicius et al., "Mixed Precision Training", 2018. docs/precision.md says what each costs.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mix_core.errors import ConfigError

if TYPE_CHECKING:
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
    inside: bool = False
    """Whether tensors stay float32 and products alone are narrow."""

    @classmethod
    def of(cls, dtype: str, level: str, activation: Activation, initial_scale: float = 32768.0) -> Precision:
        """What the keys `dtype`, `fp16_opt_level` and `scale_loss` ask of the device.

        Raises:
            ConfigError: the device does not compute in this dtype, or the keys contradict each other.
        """
        if dtype == "float32":
            return cls()
        if level == "O0":
            raise ConfigError(
                f"fp16_opt_level O0 computes in float32, but dtype is {dtype}; give O1 or O2, or "
                "--dtype float32"
            )
        if activation.profile.supports_dtype(dtype):
            return cls(dtype, level, initial_scale)
        if not multiplies_in(dtype, activation):
            can = ", ".join(activation.profile.dtypes["default"])
            raise ConfigError(
                f"dtype is {dtype}, but device {activation.name} computes in {can}; give --dtype float32"
            )
        if level != "O1":
            raise ConfigError(
                f"fp16_opt_level {level} keeps parameters in {dtype}, and device {activation.name} has "
                f"{dtype} inside of products alone; give O1"
            )
        return cls(dtype, level, inside=True)

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

        return products_in(getattr(paddle, self.dtype), inside=self.inside)

    def loss_scale(self) -> LossScale | None:
        """A new loss scale, where gradients need one: float16 has no numbers below 6e-8."""
        if self.dtype != "float16":
            return None
        from mix_core.training.loss_scale import LossScale

        return LossScale(self.initial_scale)


def multiplies_in(dtype: str, activation: Activation) -> bool:
    """Whether the device multiplies float32 tensors in `dtype`: it says so, and its kernel is there."""
    from mix_core.device import KernelRequest

    if not activation.profile.supports_dtype(dtype, "products"):
        return False
    request = KernelRequest("float32", training=True, products=dtype)
    return activation.kernel("linear", request) is not None
