"""One training run, from a checked configuration to its results: what happens before paddle is imported.

The order saves time for whoever made a mistake: run folder, checkpoint to resume from, model folder and rows
are looked at first; then the device is activated, which imports paddle; then the session trains.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import mix_core.device as device
from mix_core.device.failures import as_failure
from mix_core.device.ranks import Job, job_of
from mix_core.errors import CheckpointError, ConfigError, MixError, RunFailedError
from mix_core.models.common.hub import resolve_model_folder
from mix_core.models.parallel.fits import check_divides
from mix_core.models.registry import model_sizes
from mix_core.training import checkpoint, record
from mix_core.training.agreement import check_ranks, identity
from mix_core.training.kinds import holds_adapter, kind_of_run
from mix_core.training.launch import note_end
from mix_core.training.layout import Layout, layout_of
from mix_core.training.precision import Precision
from mix_core.training.processors import lost_with_adapters
from mix_core.training.reporters import check_installed
from mix_core.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable

    from mix_core.config import RunConfig


def train_rank(config: RunConfig, *, device_name: str | None, command: list[str]) -> None:
    """`train`, as one of a launcher's ranks, if there are several: leaves word of an error to its parent."""
    try:
        train(config, device_name=device_name, command=command)
    except (MixError, OSError, RuntimeError, MemoryError) as error:
        failure = error if isinstance(error, MixError) else as_failure(error)
        if failure is not None:
            note_end(job_of(os.environ), failure)
        raise


def train(config: RunConfig, *, device_name: str | None = None, command: list[str] | None = None) -> None:
    """Train as the configuration says.

    Args:
        device_name: the device named by an argument, which wins over MIX_DEVICE and the configuration.
        command: the words that started this run, for run.json and for the line that says how to go on.
    Raises:
        MixError: what went wrong, in one line.
        SystemExit: with 130, after a signal; the run is saved then.
    """
    command = command or ["python", "-m", "mix_core.train"]
    if config.output_dir is None:
        raise ConfigError("output_dir is missing; give the folder that the run may fill")
    check_installed(config)
    job = job_of(os.environ)
    layout = layout_of(config, job.ranks)
    if job.ranks > 1:
        config = share_of_batch(config, layout)
    with RunFolder(config.output_dir, leads=job.leads) as folder:
        results = record.finished_results(folder, config) if config.resume == "auto" else None
        if results is not None:
            print(f"{folder.path} is trained already:\n{record.finished_text(folder, results)}")
            return
        start, make_room = _starting_point(folder, config)
        try:
            _train(config, folder, start, make_room, device_name, command, job, layout)
        except OSError as error:
            reason = checkpoint.write_failure(error)
            if reason != "no space left":
                raise
            raise RunFailedError(
                f"{folder.path}: no space left; make room, then go on with --resume auto"
            ) from error


def _train(
    config: RunConfig,
    folder: RunFolder,
    start: Path | None,
    make_room: Callable[[], None],
    device_name: str | None,
    command: list[str],
    job: Job,
    layout: Layout,
) -> None:
    if start is not None:
        _check_start(start, config.lora)
        _check_model(start, config.model_name_or_path)
    if start is not None and not config.lora:
        source = start
    elif config.model_name_or_path is not None:
        source = resolve_model_folder(config.model_name_or_path, config.revision)
    else:
        raise ConfigError(
            "model_name_or_path is missing; give a model folder or a hub name, or --recipe NAME"
        )
    if layout.tensor > 1:
        check_divides(source, layout.tensor)
    kind = kind_of_run(config, source)
    activation = device.activate(
        device_name,
        workload=device.Workload(
            task=kind.task,
            model=kind.model,
            mode="train",
            dtype=config.dtype,
            world_size=job.ranks,
            deterministic=config.deterministic,
        ),
        simulate=config.simulate or None,
        config_device=config.device,
        kernels=config.kernels,
        allow_reexec=True,
    )
    precision = Precision.of(config.dtype, config.fp16_opt_level, activation, config.scale_loss)
    from mix_core.training.parallel import Ranks

    collective = activation.profile.collective
    ranks = Ranks(job, layout, scatters=collective is None or not collective.scatter_by_all_reduce)
    label, simulated = activation.distribution, activation.workload.simulate
    check_ranks(job, identity(label, simulate=simulated), ranks.most)
    with kind.session(
        config, folder, source, start, kind.rows, activation, precision, command, ranks
    ) as session:
        ranks.wait()
        if ranks.leads:
            make_room()
            if config.lora and kind.task == "understanding" and (lost := lost_with_adapters(config, source)):
                print(lost, file=sys.stderr)
        session.run()


def share_of_batch(config: RunConfig, layout: Layout) -> RunConfig:
    """The configuration of one rank: global_batch_size is that of all ranks together.

    Raises:
        ConfigError: it does not divide.
    """
    if config.global_batch_size is None:
        return config
    passes, rest = divmod(config.gradient_accumulation_steps, layout.streams)
    if rest:
        raise ConfigError(
            f"global_batch_size {config.global_batch_size} is not per_device_train_batch_size "
            f"{config.per_device_train_batch_size} times {layout.streams} devices that see different samples "
            "times a whole number"
        )
    return config.model_copy(update={"gradient_accumulation_steps": passes})


def _starting_point(folder: RunFolder, config: RunConfig) -> tuple[Path | None, Callable[[], None]]:
    """The checkpoint to go on from, and what makes room in the run folder once all else is right."""
    start = checkpoint.find_checkpoint(folder.path, config.resume)
    if config.resume == "auto":
        _tell_what_is_passed_over(folder, start)
        return start, lambda: None
    if start is not None and start.resolve().parent == folder.path.resolve():
        step = checkpoint.checkpoint_step(start) or 0
        folder.refuse_later(step, allowed=config.overwrite_output_dir)
        return start, lambda: folder.drop_later(step)
    if config.overwrite_output_dir:
        return start, folder.empty
    folder.refuse_if_used()
    return start, lambda: None


def _tell_what_is_passed_over(folder: RunFolder, start: Path | None) -> None:
    for path in reversed(checkpoint.list_checkpoints(folder.path)):
        if path == start:
            return
        print(f"passing over {path.name}: {checkpoint.first_fault(path)}", file=sys.stderr)


def _check_start(start: Path, lora: bool) -> None:
    """A run goes on as what it was: with adapters, or with a model of its own. Raises CheckpointError."""
    if holds_adapter(start) and not lora:
        raise CheckpointError(f"resume: {start} holds an adapter and lora is false; give lora: true")
    if lora and not holds_adapter(start):
        raise CheckpointError(
            f"resume: {start} holds a whole model and lora is true; to put adapters on it give it as "
            "model_name_or_path and another output_dir"
        )


def _check_model(start: Path, named: str | Path | None) -> None:
    """Of the model that the run's keys name, where both can be looked at. Raises CheckpointError."""
    if named is None or holds_adapter(start) or not (Path(named) / "config.json").is_file():
        return  # an adapter is compared with its model's weights; a name of the hub may be unreachable
    found, wanted = model_sizes(start), model_sizes(Path(named))
    differ = next((name for name in wanted if found.get(name) != wanted[name]), None)
    if differ is not None:
        raise CheckpointError(
            f"resume: {start} is a checkpoint of another model than {named}: {differ} is "
            f"{found.get(differ)}, there {wanted[differ]}; give its model_name_or_path, or another output_dir"
        )
