"""A run with paddle imported: model, optimizer and data; then steps, checkpoints, evaluation, report."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import paddle

from mix_core.errors import EXIT_INTERRUPTED, RunFailedError
from mix_core.models.registry import load_model
from mix_core.training import checkpoint, record, state
from mix_core.training.evaluate import evaluate
from mix_core.training.faults import place
from mix_core.training.freeze import PROJECTOR, freeze, matching
from mix_core.training.interrupt import StopRequest
from mix_core.training.loop import NotFiniteError, Stepper, StepResult
from mix_core.training.metrics import MetricsWriter
from mix_core.training.optimizer import AdamW
from mix_core.training.progress import Progress
from mix_core.training.report import write_report
from mix_core.training.run_folder import METRICS, RECORD, RESULTS, RunFolder
from mix_core.training.schedule import schedule_of
from mix_core.training.stream import SampleStream

if TYPE_CHECKING:
    from mix_core.config import RunConfig
    from mix_core.device import Activation
    from mix_core.training.rows import Rows

RANDOM_STATE = "random."
"""Before the parts of the device generator's state, in checkpoints."""


class Session:
    """One run. A context manager: leaving it closes the data workers and settles run.json."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        model_folder: Path,
        start: Path | None,
        rows: Rows,
        activation: Activation,
        command: list[str],
    ) -> None:
        self.config, self.folder, self.rows = config, folder, rows
        self.activation, self.command = activation, command
        paddle.seed(config.seed)
        source = start or model_folder
        fresh = config.from_scratch and start is None
        self.family, self.model_config, self.model = load_model(source, random_init=fresh, seed=config.seed)
        self.processor = self.family.load_processor(source).with_options(
            image_min_pixels=config.image_min_pixels,
            image_max_pixels=config.image_max_pixels,
            video_min_pixels=config.video_min_pixels,
            video_max_pixels=config.video_max_pixels,
            video_fps=config.video_fps,
            video_max_frames=config.video_maxlen,
            allow_private_urls=config.allow_private_urls or None,
        )
        learning = freeze(self.model, config)
        self.model.recompute = config.recompute
        self.optimizer = AdamW(
            self.model,
            beta1=config.adam_beta1,
            beta2=config.adam_beta2,
            epsilon=config.adam_epsilon,
            weight_decay=config.weight_decay,
            rate_factors=_rate_factors(learning, config),
        )
        self.step = 0
        """Steps taken, those before a resume included."""
        position = self._restore(start) if start is not None else 0
        self.stream = SampleStream(
            rows.train, self.processor, source, config, position, activation.profile.min_loader_workers
        )
        self.last_step = (
            config.max_steps if config.max_steps > 0 else self.stream.steps(config.num_train_epochs)
        )
        self.stepper = Stepper(
            self.model,
            self.optimizer,
            schedule_of(config, self.last_step),
            max_grad_norm=config.max_grad_norm,
            seed=config.seed,
        )
        self.saved_step = self.step if start is not None and start.parent == folder.path else -1
        self._record(start)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.close()
        if error is not None and self.record["status"] == "running":
            status = "interrupted" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "failed"
            self._settle(status, message=" ".join(str(error).split()))

    def run(self) -> None:
        """Take the steps that are left, evaluate, and write results and report."""
        place("start")
        if self.config.do_train and self.step < self.last_step:
            self._train()
        place("end")
        self._finish()

    def _train(self) -> None:
        config = self.config
        resume_step = self.step if self.step else None
        self.model.train()
        with (
            MetricsWriter(self.folder.path / METRICS, resume_step=resume_step) as metrics,
            Progress(
                self.last_step,
                start_step=self.step,
                logging_steps=config.logging_steps,
                stream=None if config.progress_bar else PlainStream(),
            ) as progress,
            StopRequest() as stop,
        ):
            self.metrics, self.progress = metrics, progress
            while self.step < self.last_step and not stop.asked:
                self._one_step()
            if stop.asked:
                self._stop()
            if self.saved_step != self.step and not config.benchmark:
                self._save()

    def _one_step(self) -> None:
        started = time.perf_counter()
        batches = self.stream.next_step()
        waited_s = time.perf_counter() - started
        try:
            result = self.stepper.take(self.step + 1, batches, started, waited_s)
        except NotFiniteError as error:
            kept = checkpoint.newest_whole(self.folder.path)
            last = f"{kept} is the last good checkpoint" if kept else "there is no checkpoint yet"
            raise RunFailedError(f"{error}; {last}; try a lower learning_rate or max_grad_norm") from error
        self.step = result.step
        values: dict[str, Any] = {
            "loss": result.loss,
            "learning_rate": result.learning_rate,
            "grad_norm": result.grad_norm,
            "tokens_per_s": result.tokens_per_s,
            "label_tokens": result.label_tokens,
            "step_ms": result.step_ms,
            "data_ms": result.data_ms,
            "epoch": result.epoch,
        }
        if not self.config.skip_memory_metrics:
            values["memory_bytes"] = self.activation.runtime.memory_stats()["allocated"]
        self.progress.update(
            result.step,
            loss=result.loss,
            tokens_per_s=result.tokens_per_s,
            learning_rate=result.learning_rate,
        )
        if self._is_due(self.config.evaluation_strategy, self.config.eval_steps, result) and self.rows.eval:
            values |= {f"eval_{name}": value for name, value in self._evaluate(during=True).items()}
        self.metrics.write(result.step, **values)
        place("step")
        if self._is_due(self.config.save_strategy, self.config.save_steps, result):
            self._save()

    def _is_due(self, strategy: str, every: int | None, result: StepResult) -> bool:
        if strategy == "steps":
            return result.step % (every or self.config.logging_steps) == 0
        return strategy == "epoch" and result.ends_epoch

    def _stop(self) -> None:
        if self.saved_step != self.step:
            self._save()
        self.progress.close()
        again = record.command_text(self.command, resume="auto")
        self._settle("interrupted", message=f"stopped after step {self.step}")
        print(f"stopped after step {self.step} of {self.last_step}, saved; go on with: {again}")
        raise SystemExit(EXIT_INTERRUPTED)

    def _save(self) -> None:
        self.metrics.flush()
        checkpoint.save_checkpoint(self.folder.path, self.step, self._write_checkpoint)
        self.saved_step = self.step
        checkpoint.rotate(self.folder.path, self.config.save_total_limit)
        self.progress.pause()

    def _write_checkpoint(self, folder: Path) -> None:
        self.family.save_weights(self.model, folder)
        self.family.write_config(self.model_config, folder)
        self.processor.save(folder)
        place("checkpoint-weights")
        inner = folder / state.FOLDER
        inner.mkdir()
        tensors: dict[str, Any] = {}
        if self.config.save_optimizer:
            moments = ((name, state.whole_piece(values)) for name, values in self.optimizer.state())
            tensors |= state.write_pieces(inner, "optimizer", moments)
        if self.config.save_random_state:
            parts = self.activation.runtime.get_random_state()
            pieces = (
                (RANDOM_STATE + name, state.whole_piece(state.storable(v))) for name, v in parts.items()
            )
            tensors |= state.write_pieces(inner, "random", pieces)
        values = {
            "optimizer_steps": self.optimizer.steps,
            "samples": self.stream.position,
            "seed": self.config.seed,
            "last_step": self.last_step,
        }
        state.write_manifest(inner, self.step, values, tensors)

    def _restore(self, start: Path) -> int:
        """Take step, moments and random state from a checkpoint -> place in the data."""
        reader = state.StateReader(start)
        values = reader.manifest["state"]
        self.step = int(reader.manifest["step"])
        if self.config.load_optimizer:
            self.optimizer.load(reader, int(values["optimizer_steps"]))
        names = reader.names(RANDOM_STATE)
        if not self.config.load_random_state:
            return 0
        if names:
            parts = {name.removeprefix(RANDOM_STATE): reader.read(name) for name in names}
            self.activation.runtime.set_random_state(parts)
        return int(values["samples"])

    def _evaluate(self, *, during: bool) -> dict[str, Any]:
        config = self.config
        rows = self.rows.eval[: config.max_eval_samples] if during else self.rows.eval
        self.model.eval()
        results = evaluate(
            self.model,
            self.processor,
            rows,
            batch_size=config.per_device_eval_batch_size,
            max_new_tokens=config.eval_max_new_tokens,
            gallery_dir=None if during else self.folder.path,
        )
        self.model.train()
        if during:
            self.progress.pause()
        return results

    def _finish(self) -> None:
        results: dict[str, Any] = {}
        if self.config.do_eval or (self.config.do_eval is None and self.rows.eval):
            results = self._evaluate(during=False)
        self.folder.write_json(RESULTS, results)
        write_report(self.folder.path)
        self._settle("finished")
        if results:
            print(record.results_table(results))
        print(f"report: {(self.folder.path / 'report.html').resolve()}")

    def _record(self, start: Path | None) -> None:
        before = self.folder.read_json(RECORD) if start is not None else None
        self.record = record.start_record(
            self.config, self.command, self.activation.to_json(), self.rows.to_json()
        )
        self.record["model"] = {
            "family": self.family.name,
            "parameters": sum(int(p.size) for p in self.model.parameters()),
            "learning": sum(int(p.size) for _, p in self.optimizer.named_parameters()),
        }
        self.record["steps"] = self.last_step
        if start is not None:
            self.record["resumed_from"] = {"checkpoint": str(start), "step": self.step}
            changed = record.changed_keys((before or {}).get("configuration"), self.config) if before else {}
            for key, (old, new) in changed.items():
                print(f"going on with another {key}: {new}, was {old}")
        self.folder.write_json(RECORD, self.record)

    def _settle(self, status: str, message: str | None = None) -> None:
        self.record |= {"status": status, "ended": record.now(), "last_step": self.step}
        self.record["device"] = self.activation.to_json()
        if message:
            self.record["message"] = message
        self.folder.write_json(RECORD, self.record)


class PlainStream:
    """stderr without being a terminal, so that progress comes as lines."""

    def write(self, text: str) -> int:
        import sys

        return sys.stderr.write(text)

    def flush(self) -> None:
        import sys

        sys.stderr.flush()


def _rate_factors(learning: list[str], config: RunConfig) -> dict[str, float]:
    """mm_projector_lr as multiples of learning_rate, so that one schedule serves both."""
    if config.mm_projector_lr is None or config.learning_rate == 0:
        return {}
    factor = config.mm_projector_lr / config.learning_rate
    return dict.fromkeys(matching(learning, PROJECTOR), factor)
