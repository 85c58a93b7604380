"""The parts that a session is put together from: model and processor, what learns, optimizer, rows."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.data.skipped import FILE as SKIPPED
from mix_core.data.skipped import SkippedRows
from mix_core.errors import ConfigError
from mix_core.models.common.adapter_files import ADAPTERS
from mix_core.models.common.pieces import FIRST
from mix_core.models.common.recompute import Again
from mix_core.models.parallel.across import Across
from mix_core.models.parallel.tensor import divide_model
from mix_core.models.registry import load_model, read_config
from mix_core.training.freeze import freeze, learning_table
from mix_core.training.in_backward import BUNCH
from mix_core.training.lora import RunAdapter
from mix_core.training.optimizer import AdamW
from mix_core.training.pipeline.split import in_words, pieces_of
from mix_core.training.pipeline.stage import Stage
from mix_core.training.processors import make_processor, model_options, processor_options
from mix_core.training.rates import rate_factors
from mix_core.training.sharded_optimizer import ShardedAdamW
from mix_core.training.stream import StepStream
from mix_core.training.summing import SummingAdamW
from mix_core.training.vocabulary import fit_vocabulary

if TYPE_CHECKING:
    from mix_core.config import RunConfig
    from mix_core.models.registry import ModelFamily
    from mix_core.training.parallel import Ranks
    from mix_core.training.precision import Precision
    from mix_core.training.rows import Rows
    from mix_core.training.run_folder import RunFolder
    from mix_core.training.snapshot import Progressed


def load_parts(
    config: RunConfig, source: Path, ranks: Ranks, *, random_init: bool
) -> tuple[ModelFamily, Any, Any, Any]:
    """What a folder holds, as the keys about it say -> (family, configuration, model, processor).

    Of the model this rank's part. Raises BadInputError and WeightsError.
    """
    processor = make_processor(source, processor_options(config))
    divide = partial(_divide, config, ranks) if ranks.layout.tensor > 1 else None
    # an embedding grows while it is whole
    grows = bool(config.new_special_tokens or config.resize_vocab)
    family, model_config, model = load_model(
        source,
        random_init=random_init,
        seed=config.seed,
        keys=model_options(config),
        divide=None if grows else divide,
    )
    if grows:
        resized = fit_vocabulary(family, read_config(source), model, processor.tokenizer, config)
        model_config = resized or model_config
        if divide is not None:
            divide(family, model)
    if config.neftune:
        model.add_noise(config.neftune_noise_alpha)
    return family, model_config, model, processor


def _divide(config: RunConfig, ranks: Ranks, family: ModelFamily, model: Any) -> None:
    """Leave this rank's part of a model."""
    place, size, group = ranks.groups.place.tensor, ranks.layout.tensor, ranks.groups.along("tensor")
    across = Across(place, size, group, scatters=ranks.scatters)
    divide_model(model, family.tensor_plan or {}, across, sequence=config.sequence_parallel)


def again_of(config: RunConfig) -> bool | Again:
    """What of a model is computed again going back, as the keys about it say."""
    if not config.recompute:
        return False
    half = config.recompute_granularity in ("full_attn", "selective")
    first = config.recompute_num_layers if config.recompute_method == "block" else None
    kept = frozenset(config.no_recompute_layers or ())
    return Again("attention" if half else "all", first, kept) if half or first or kept else True


def choose_what_learns(
    model: Any, family: ModelFamily, config: RunConfig, start: Path | None, *, show: bool
) -> tuple[RunAdapter | None, list[str]]:
    """Put the adapter on, freeze, and show the table -> the adapter, names of what learns.

    Raises ConfigError where adapters and what they are on would learn both.
    """
    adapter = RunAdapter(model, family, config, start) if config.lora else None
    learning = freeze(model, config, family.published_name)
    if adapter is not None:
        adapter.check_learning([family.published_name(n) for n in learning if ADAPTERS not in n])
    if show:
        print(learning_table(model, family.published_name), file=sys.stderr)
    return adapter, learning


def stage_of(
    config: RunConfig, model: Any, family: ModelFamily, model_config: Any, ranks: Ranks
) -> Stage | None:
    """What of the model this rank of a pipeline has; None without a pipeline.

    Raises ConfigError where the keys ask for stages that this model cannot have.
    """
    stages = ranks.layout.pipeline
    if stages == 1:
        return None
    named = dict(model.named_parameters())
    if not hasattr(model, "cuts"):
        raise ConfigError(
            f"pipeline_parallel_degree is {stages}, and {type(model).__name__} does not say where it may be "
            "cut (CausalLM.cuts); leave the key out"
        )
    learns = any(
        model.cuts.place(name) == FIRST or model.cuts.place(name)[0] == "tower"
        for name, one in named.items()
        if not one.stop_gradient
    )
    outline = None if family.outline is None else family.outline(model_config)
    pieces = pieces_of(config, stages, model.cuts.count(named), outline, learns)
    if ranks.leads:
        print(in_words(pieces, stages), file=sys.stderr)
    return Stage(model, pieces, ranks.groups)


def new_optimizer(
    config: RunConfig,
    model: Any,
    precision: Precision,
    learning: list[str],
    ranks: Ranks,
    stage: Stage | None = None,
) -> AdamW:
    """Without moments yet. Brings the model to the dtype in which it is kept."""
    options: dict[str, Any] = {
        "beta1": config.adam_beta1,
        "beta2": config.adam_beta2,
        "epsilon": config.adam_epsilon,
        "weight_decay": config.weight_decay,
        "rate_factors": rate_factors(learning, config),
        "masters": precision.narrow(model),
        "stage": stage,
    }
    if ranks.sharding is None:
        if config.overlap_grad_reduce and ranks.job.ranks > 1:
            return SummingAdamW(model, ranks, **options)
        in_backward = BUNCH if config.optimizer_in_backward else 0
        return AdamW(model, ranks=ranks, in_backward=in_backward, **options)
    return ShardedAdamW(model, ranks.sharding, ranks, **options)


def open_stream(
    config: RunConfig,
    rows: Rows,
    processor: Any,
    source: Path,
    reached: Progressed,
    start: Path | None,
    folder: RunFolder,
    ranks: Ranks,
    *,
    workers: int,
) -> StepStream:
    """The steps' passes from where the run has come to; of several ranks, this one's."""
    skipped = SkippedRows(
        folder.path / SKIPPED if ranks.leads else None,
        known=start.parent / SKIPPED if start is not None else None,
    )
    return StepStream(
        rows,
        processor,
        source,
        config,
        position=reached.position,
        waiting=reached.waiting,
        job=ranks.layout.job(ranks.job.rank),
        workers=workers,
        skipped=skipped,
    )
