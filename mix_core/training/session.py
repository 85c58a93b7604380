"""A run with paddle imported: model, optimizer and data; then steps, checkpoints, evaluation, report."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import paddle

from mix_core.device.failures import as_failure
from mix_core.device.ranks import Job
from mix_core.errors import EXIT_INTERRUPTED, MixError, OtherRankError, RunFailedError
from mix_core.models.common.adapter_files import ADAPTERS
from mix_core.models.common.parts import whole_shape
from mix_core.models.parallel.loading import reading_in_turn
from mix_core.training import assembly, checkpoint, record
from mix_core.training.best import best_of
from mix_core.training.evaluate import evaluate, result_names
from mix_core.training.faults import place
from mix_core.training.held_out import held_out_loss
from mix_core.training.interrupt import StopRequest
from mix_core.training.loop import NotFiniteError, Stepper, StepResult
from mix_core.training.metrics import MetricsWriter
from mix_core.training.parallel import Ranks
from mix_core.training.pipeline.engine import Pipeline
from mix_core.training.progress import PlainStream, Progress, clock
from mix_core.training.report import write_report
from mix_core.training.reporters import Reporters
from mix_core.training.run_folder import METRICS, RECORD, RESULTS, RunFolder, read_json
from mix_core.training.saving import Saver
from mix_core.training.schedule import schedule_of
from mix_core.training.snapshot import Parts, Progressed
from mix_core.training.stream import StepBatches, StepStream
from mix_core.training.throughput import (
    CHECKPOINT,
    COMMUNICATION,
    DATA,
    EVALUATION,
    Counter,
    StepClock,
    Throughput,
    in_words,
    parts_that_learn,
    peak_of,
)

if TYPE_CHECKING:
    from mix_core.config import RunConfig
    from mix_core.device import Activation
    from mix_core.models.registry import ModelFamily
    from mix_core.training.optimizer import AdamW
    from mix_core.training.precision import Precision
    from mix_core.training.rows import Rows


class Session:
    """One run. A context manager: leaving it ends the data workers and settles run.json."""

    saves_aside = True
    """Whether training goes on while a checkpoint is written."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        source: Path,
        start: Path | None,
        rows: Rows,
        activation: Activation,
        precision: Precision,
        command: list[str],
        ranks: Ranks | None = None,
    ) -> None:
        """`source`: the folder of model and processor. `start`: the checkpoint to go on from, if any; that
        folder too, or an adapter's."""
        self.config, self.folder, self.rows = config, folder, rows
        self.activation, self.precision, self.command = activation, precision, command
        self.ranks = ranks or Ranks(Job())
        self._folders = [folder.path, *([start.parent] if start is not None else [])]
        """Where checkpoints of this run, and of what it goes on from, lie."""
        paddle.seed(config.seed)
        family, model_config = self._load(source, random_init=config.from_scratch and start is None)
        adapter, learning = self._choose_what_learns(family, start)
        self.rounded = adapter.round_bases(activation) if adapter and config.weight_quantize_algo else 0
        """Numbers of the model that are kept in 8 bits."""
        self.model.recompute = assembly.again_of(config)
        self.stage = assembly.stage_of(config, self.model, family, model_config, self.ranks)
        self.optimizer = self._new_optimizer(learning)
        self.parts = Parts(
            config,
            family,
            model_config,
            self.model,
            self.processor,
            self.optimizer,
            activation.runtime,
            precision.parameter_dtype,
            precision.loss_scale(),
            best_of(config, self._results()),
            adapter,
            [family.published_name(name) for name in learning if ADAPTERS not in name],
            writes_frozen=self.ranks.groups.place.sharding == 0,
        )
        reached = self.parts.restore(start) if start is not None else Progressed(0, 0)
        if self.parts.best is not None:
            self.parts.best.look_for(self._folders)
        self.saver = Saver(folder.path, self.parts, self.ranks, limit=config.save_total_limit)
        self.step = reached.step
        """Steps taken, those before a resume included."""
        self.saved_step = self.step if start is not None and start.parent == folder.path else -1
        self._start_measuring(family, model_config, learning)
        self._learning = set(learning)
        self.position, self.waiting = reached.position, reached.waiting
        """Rows visited by the steps taken, and visits that packing has read ahead of them."""
        self.stream = self._open_stream(source, reached, start) if config.do_train else None
        self.last_step = self.step
        if self.stream is not None:
            self.last_step = (
                config.max_steps if config.max_steps > 0 else self.stream.steps_in(config.num_train_epochs)
            )
        self._start_record(family.name, start)

    def _load(self, source: Path, *, random_init: bool) -> tuple[ModelFamily, Any]:
        """Make model and processor -> family, configuration."""
        with reading_in_turn(self.ranks.job):
            family, model_config, self.model, self.processor = assembly.load_parts(
                self.config, source, self.ranks, random_init=random_init
            )
        return family, model_config

    def _choose_what_learns(self, family: ModelFamily, start: Path | None) -> tuple[Any, list[str]]:
        """-> the adapter that learns in place of the model, if any; names of the parameters that learn."""
        return assembly.choose_what_learns(self.model, family, self.config, start, show=self.ranks.leads)

    def _new_optimizer(self, learning: list[str]) -> AdamW:
        return assembly.new_optimizer(
            self.config, self.model, self.precision, learning, self.ranks, self.stage
        )

    def _start_measuring(self, family: ModelFamily, model_config: Any, learning: list[str]) -> None:
        """Count work and time from here on."""
        outline = None if family.outline is None else family.outline(model_config)
        names = [n if ADAPTERS in n else family.published_name(n) for n in learning]
        ranks = self.ranks.job.ranks
        self.counter = Counter(outline, *parts_that_learn(names))
        self.clock = StepClock(self.activation.runtime.synchronize if ranks > 1 else None)
        peak = peak_of(self.config, self.activation.profile, self.precision.dtype, ranks)
        self.throughput = Throughput(peak)

    def _open_stream(self, source: Path, reached: Progressed, start: Path | None) -> StepStream:
        config, processor, ranks = self.config, self.processor, self.ranks
        workers = max(config.dataloader_num_workers, self.activation.profile.min_loader_workers)
        return assembly.open_stream(
            config, self.rows, processor, source, reached, start, self.folder, ranks, workers=workers
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.stream is not None:
            self.stream.close()
        self.saver.close()
        if error is None or self.record["status"] != "running":
            return
        stopped = isinstance(error, KeyboardInterrupt)
        words = " ".join(str(as_failure(error) or error).split())
        self._settle("interrupted" if stopped else "failed", words)
        if stopped:
            there = [path.name for path in checkpoint.list_checkpoints(self.folder.path)]
            again = record.command_text(self.command, resume="auto")
            saved = f"{there[-1]} is the last one saved; go on with: {again}" if there else "nothing is saved"
            print(f"stopped at once; {saved}", file=sys.stderr)

    def run(self) -> None:
        """Take the steps that are left, evaluate, and write results and report."""
        self.folder.write_json(RECORD, self.record)
        place("start")
        with self._all_reporters() as self.reporters:
            if self.stream is not None and self.step < self.last_step and not self._is_exhausted:
                self._train(self.stream)
            place("end")
            self._finish()

    def _train(self, stream: StepStream) -> None:
        config = self.config
        stepper = Stepper(
            self.model,
            self.optimizer,
            schedule_of(config, self.last_step),
            max_grad_norm=config.max_grad_norm,
            seed=config.seed,
            precision=self.precision,
            loss_scale=self.parts.loss_scale,
            ranks=self.ranks,
            module_stats_steps=config.module_stats_steps,
            counter=self.counter,
            clock=self.clock,
            pipeline=self._pipeline(),
        )
        self.model.train()
        with (
            self._metrics_writer() as self.metrics,
            Progress(
                self.last_step,
                start_step=self.step,
                logging_steps=config.logging_steps,
                stream=None if config.progress_bar else PlainStream(),
            ) as self.progress,
            StopRequest() as stop,
        ):
            self.optimizer.release()
            if self.saves_aside and self._saves_on_the_way:
                self.saver.prepare()
            asked, exhausted = 0, self._is_exhausted
            while self.step < self.last_step and not (asked or exhausted):
                self._one_step(stepper, stream)
                asked, exhausted = self.ranks.totals([stop.asked, self._is_exhausted])
            if self.saved_step != self.step and (asked or not config.benchmark):
                self._save(goes_on=False)
            self._wait_until_saved()
            self.optimizer.gather()
            self._note_throughput()
            if exhausted:
                self.progress.note(f"stopped early at step {self.step}: {self.parts.best.in_words()}")
            if asked:
                self._stop()

    def _pipeline(self) -> Pipeline | None:
        return None if self.stage is None else Pipeline(self.stage, self.precision.computing, self.clock)

    def _all_reporters(self) -> Reporters:
        names = self.config.report_to if self.ranks.leads else None
        return Reporters(
            self.config.model_copy(update={"report_to": names}), self.folder.path, self.step or None
        )

    def _metrics_writer(self) -> AbstractContextManager[MetricsWriter | None]:
        if not self.ranks.leads:
            return nullcontext()
        return MetricsWriter(self.folder.path / METRICS, resume_step=self.step or None)

    def _one_step(self, stepper: Stepper, stream: StepStream) -> None:
        self.saver.check()
        self.throughput.add_between(self.clock.take())
        started = time.perf_counter()
        batches = self._next_step(stream)
        try:
            result = stepper.take(self.step + 1, batches, started, self.clock.spent(DATA))
        except NotFiniteError as error:
            kept = checkpoint.newest_whole(self.folder.path)
            last = f"{kept.name} is the last good checkpoint" if kept else "there is no checkpoint yet"
            raise RunFailedError(f"{error}; {last}; try a lower learning_rate or max_grad_norm") from error
        self.step, self.position, self.waiting = result.step, stream.position, tuple(stream.waiting)
        speed = self.throughput.add(result)
        self.progress.update(
            result.step,
            loss=result.loss,
            tokens_per_s=result.tokens_per_s,
            learning_rate=result.learning_rate,
            **{name: speed.get(name) for name in ("samples_per_s", "mfu", "padding")},
            spent={
                "compute": speed["compute_ms"],
                COMMUNICATION: result.communication_ms,
                DATA: result.data_ms,
                CHECKPOINT: speed["checkpoint_ms"],
            },
        )
        if result.skipped:
            self.progress.note(self._skipped(result))
        values = self._measured(result, speed)
        is_best = False
        if self.rows.eval and self._evaluation_is_due(result):
            results = self._evaluate(during=True)
            values |= {f"eval_{name}": value for name, value in results.items()}
            is_best = self._is_best(results)
        if self.metrics is not None:
            self.metrics.write(result.step, **values)
            self.reporters.write(result.step, values)
        place("step")
        if is_best or self._is_due(self.config.save_strategy, self.config.save_steps, result):
            self._save(goes_on=self.step < self.last_step)

    def _next_step(self, stream: StepStream) -> StepBatches:
        """The step's passes of this rank. Where one rank cannot make its own, all stop before the step."""
        batches, failure = None, None
        try:
            with self.clock.of(DATA):
                batches = stream.next_step()
        except MixError as error:
            failure = error
        with self.clock.of(COMMUNICATION):
            (failed,) = self.ranks.totals([failure is not None])
        if batches is None or failed:
            failure = failure or OtherRankError(f"{failed} of {self.ranks.job.ranks} ranks have no data")
            raise self._rescued(failure) from failure
        return batches

    def _note_throughput(self) -> None:
        """Say how fast the run was, and keep it for run.json."""
        self.throughput.add_between(self.clock.take())
        summary = self.throughput.summary()
        if summary:
            self.record["throughput"] = summary
            spent = clock(sum(summary["seconds"].values()))
            self.progress.note(f"{self.throughput.tokens:,} tokens in {spent}: {in_words(summary)}")

    def _measured(self, result: StepResult, speed: dict[str, float]) -> dict[str, Any]:
        """A step's line in metrics.jsonl."""
        names = ("loss", "learning_rate", "grad_norm", "tokens_per_s", "label_tokens")
        values = {name: getattr(result, name) for name in names}
        if not self.config.skip_memory_metrics:
            values["memory_bytes"] = self.activation.runtime.memory_stats()["allocated"]
        if result.loss_scale is not None:
            values |= {"loss_scale": result.loss_scale, "skipped": result.skipped}
        if result.modules is not None:
            values["modules"] = result.modules
        times = {name: getattr(result, name) for name in ("step_ms", "data_ms", "epoch")}
        return values | speed | times

    def _skipped(self, result: StepResult) -> str:
        dtype, after = self.precision.dtype, self.parts.loss_scale.scale
        return (
            f"step {result.step}: gradients overflow {dtype} at loss scale {result.loss_scale:g}, "
            f"so there is no update; going on at {after:g}"
        )

    def _evaluation_is_due(self, result: StepResult) -> bool:
        return self._is_due(self.config.evaluation_strategy, self.config.eval_steps, result)

    def _is_due(self, strategy: str, every: int | None, result: StepResult) -> bool:
        if strategy == "steps":
            return result.step % (every or self.config.logging_steps) == 0
        return strategy == "epoch" and result.ends_epoch

    def _save(self, *, goes_on: bool) -> None:
        """Save the step that was reached; if training goes on, it does so while files are being written."""
        with self.clock.of(CHECKPOINT):
            if self.metrics is not None:
                self.metrics.flush()
            self.saver.save(
                Progressed(self.step, self.position, self.waiting), goes_on=goes_on and self.saves_aside
            )
        self.saved_step = self.step
        self.progress.pause()

    @property
    def _saves_on_the_way(self) -> bool:
        """Whether a checkpoint is due before the last step."""
        config = self.config
        next_due = self.step - self.step % config.save_steps + config.save_steps
        return config.save_strategy == "epoch" or (
            config.save_strategy == "steps" and next_due < self.last_step
        )

    def _wait_until_saved(self) -> None:
        with self.clock.of(CHECKPOINT):
            self.saver.wait()
            self.ranks.wait()
        self.record["checkpoints"] = self.saver.summary()

    @property
    def _is_exhausted(self) -> bool:
        return self.parts.best is not None and self.parts.best.exhausted

    def _results(self) -> list[str]:
        """What evaluation during training gives. A row that cannot be asked is found now."""
        config = self.config
        how = {"generates": config.eval_with_do_generation, "metrics": config.eval_metrics}
        result_names(self.rows.eval, **how)
        return result_names(self.rows.eval[: config.max_eval_samples], **how)

    def _is_best(self, results: dict[str, Any]) -> bool:
        """Whether the model is the best so far. The first rank has the results and knows; all are told."""
        best = self.parts.best
        if best is None:
            return False
        (is_best,) = self.ranks.totals([self.ranks.leads and best.update(self.step, results)])
        best.step = self.step if is_best else best.step
        return is_best > 0

    def _take_best(self) -> None:
        """Note the best checkpoint, and go back to its weights where load_best_model_at_end says so."""
        best = self.parts.best
        if best is None or best.step is None or not self.ranks.evaluates:
            return
        path = best.checkpoint(self._folders)
        if path is None:
            raise RunFailedError(f"{self.folder.path} has lost checkpoint-{best.step}, the best one")
        loads = self.config.load_best_model_at_end
        self.record["best"] = {"checkpoint": str(path), "metric": best.metric, "value": best.value} | (
            {"loaded": True} if loads else {}
        )
        if loads and best.step != self.step:
            self.parts.load_weights(path)

    def _rescued(self, error: MixError) -> MixError:
        """A row is bad, or a data worker died: keep what was learned before it, and say so."""
        if self.step == 0:
            return error
        if self.saved_step != self.step:
            self._save(goes_on=False)
        self.saver.wait()
        return type(error)(f"{error}; step {self.step} is saved: mend that, then go on with --resume auto")

    def _stop(self) -> None:
        self.progress.close()
        self._settle("interrupted", f"stopped after step {self.step}")
        again = record.command_text(self.command, resume="auto")
        print(f"stopped after step {self.step} of {self.last_step}, saved; go on with: {again}")
        raise SystemExit(EXIT_INTERRUPTED)

    def _evaluate(self, *, during: bool) -> dict[str, Any]:
        """The first ranks that have the model together evaluate; the others wait. The first has results."""
        with self.clock.of(EVALUATION), self.optimizer.whole():
            results = self._evaluate_here(during=during) if self.ranks.evaluates else {}
            self.ranks.wait()
        return results if self.ranks.leads else {}

    def _evaluate_here(self, *, during: bool) -> dict[str, Any]:
        config = self.config
        rows = self.rows.eval[: config.max_eval_samples] if during else self.rows.eval
        batch_size = config.per_device_eval_batch_size
        shown = self.ranks.leads and not during and config.gallery_samples
        self.model.eval()
        with self.precision.computing():
            if config.eval_with_do_generation:
                results = evaluate(
                    self.model,
                    self.processor,
                    rows,
                    batch_size=batch_size,
                    max_new_tokens=config.eval_max_new_tokens,
                    gallery_dir=self.folder.path if shown else None,
                    gallery_size=config.gallery_samples,
                    metrics=config.eval_metrics,
                )
            else:
                results = held_out_loss(self.model, self.processor, rows, batch_size)
        self.model.train()
        if during:
            self.progress.pause()
        return results

    def _finish(self) -> None:
        asked = self.config.do_eval or self.config.evaluation_strategy != "no"
        results: dict[str, Any] = {}
        self._take_best()
        if self.rows.eval and (asked or self.config.do_eval is None):
            results = self._evaluate(during=False)
            self.reporters.write(self.step, {f"eval_{name}": value for name, value in results.items()})
        left_out = self.stream.skipped.summary() if self.stream is not None else None
        if self.stream is not None and left_out and self.ranks.leads:
            print(left_out, file=sys.stderr)
            results |= self.stream.skipped.counts()
        self.folder.write_json(RESULTS, results)
        self._settle("finished")
        if not self.ranks.leads:
            return
        write_report(self.folder.path)
        print(record.finished_text(self.folder, results))

    def _start_record(self, family: str, start: Path | None) -> None:
        self.record = record.start_record(
            self.config, self.command, self.activation.to_json(), self.rows.to_json()
        )
        self.record["steps"] = self.last_step
        sizes = {name: prod(whole_shape(one)) for name, one in self.model.named_parameters()}
        self.record["model"] = {
            "family": family,
            "parameters": self.rounded + sum(sizes.values()),
            "learning": sum(size for name, size in sizes.items() if name in self._learning),
        }
        if self.rounded:
            self.record["model"]["in_8_bits"] = self.rounded
        if start is not None:
            self.record["resumed_from"] = {"checkpoint": str(start), "step": self.step}
            before = read_json(start.parent / RECORD)
            configuration = before.get("configuration") if isinstance(before, dict) else None
            for key, (old, new) in record.changed_keys(configuration, self.config).items():
                how = "not read, the checkpoint has" if key in record.OF_THE_MODEL else "was"
                print(f"going on with another {key}: {new}, {how} {old}", file=sys.stderr)

    def _settle(self, status: str, message: str | None = None) -> None:
        """Write down how the run ended, and the kernels that it came to use."""
        self.record |= {"status": status, "ended": record.now(), "last_step": self.step, "message": message}
        self.record["device"] = self.activation.to_json()
        self.folder.write_json(RECORD, self.record)
