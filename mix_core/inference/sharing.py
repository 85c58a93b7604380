"""Ranks of a launcher that answer together: they share every layer. Importing this imports no paddle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mix_core.device.ranks import job_of
from mix_core.errors import ConfigError
from mix_core.models.parallel.fits import check_divides
from mix_core.models.registry import ModelFamily, load_model


def sharing_ranks(folder: Path, degree: int, *, weights: str | None) -> int:
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
    if weights is not None:
        raise ConfigError(
            f"weights {weights} with tensor_parallel_degree {degree} is not built yet; leave one out"
        )
    check_divides(folder, degree)
    return degree


def load_shared(folder: Path, ranks: int) -> Any:
    """This rank's part of the model in this folder, which all ranks read together; joins the others."""
    import paddle.distributed as dist

    from mix_core.models.parallel.across import Across
    from mix_core.models.parallel.loading import reading_in_turn
    from mix_core.models.parallel.tensor import divide_model

    dist.init_parallel_env()

    def divide(family: ModelFamily, model: Any) -> None:
        divide_model(model, family.tensor_plan or {}, Across(dist.get_rank(), ranks, None))

    with reading_in_turn(job_of(os.environ)):
        return load_model(folder, divide=divide)[2]
