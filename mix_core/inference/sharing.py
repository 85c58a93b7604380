"""Ranks of a launcher that answer together: they share every layer. Importing this imports no paddle."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mix_core.device.ranks import job_of
from mix_core.errors import ConfigError
from mix_core.models.parallel.fits import check_divides
from mix_core.models.registry import ModelFamily


def sharing_ranks(folder: Path, degree: int, *, weights: str | None, lora: bool) -> int:
    """How many ranks share the layers of the model in this folder.

    Raises:
        ConfigError: there are not as many, the model does not divide, or there is what is not divided yet.
    """
    ranks = job_of(os.environ).ranks
    if degree <= 1:
        return 1
    if degree != ranks:
        raise ConfigError(
            f"tensor_parallel_degree is {degree} and a launcher started {ranks} ranks; start as many, as "
            "`mix-core infer --devices 0,1 --tensor_parallel_degree 2` does"
        )
    for name, given in (("weights int8", weights is not None), ("lora", lora)):
        if given:
            raise ConfigError(f"{name} with tensor_parallel_degree {degree} is not built yet; leave one out")
    check_divides(folder, degree)
    return degree


def divided_among(ranks: int) -> Callable[[ModelFamily, Any], None]:
    """What leaves this rank's part of a model; joins the other ranks."""

    def divide(family: ModelFamily, model: Any) -> None:
        import paddle.distributed as dist

        from mix_core.models.parallel.across import Across
        from mix_core.models.parallel.tensor import divide_model

        dist.init_parallel_env()
        divide_model(model, family.tensor_plan or {}, Across(dist.get_rank(), ranks, None))

    return divide
