"""A run that trains a text-to-image model: every run's session, with other samples, model and results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.inference.text_to_image.sources import FolderSource
from mix_core.models.common.adapter_files import ADAPTERS
from mix_core.schedulers.flow import FlowEuler
from mix_core.training.freeze import freeze, learning_table
from mix_core.training.in_backward import BUNCH
from mix_core.training.loop import StepResult
from mix_core.training.optimizer import AdamW
from mix_core.training.pictures.adapter import PictureAdapter
from mix_core.training.pictures.average import AveragedAdamW
from mix_core.training.pictures.class_pictures import ensure_class_pictures
from mix_core.training.pictures.folders import family_of, load_parts, published_name
from mix_core.training.pictures.made import Gallery, make_pictures, score_digits
from mix_core.training.pictures.model import PictureLearner
from mix_core.training.pictures.objective import objective_of, trained_schedule
from mix_core.training.pictures.operations import PictureCounter
from mix_core.training.pictures.stream import PictureStream
from mix_core.training.session import Session
from mix_core.training.snapshot import Progressed

if TYPE_CHECKING:
    from mix_core.models.registry import ModelFamily
    from mix_core.training.pictures.rows import PictureRows


class Nothing:
    """In place of the processor of a language model: checkpoints hold what the model's parts bring."""

    def save(self, folder: Path) -> None:
        """There is nothing to write."""


class PictureSession(Session):
    saves_aside = False
    """What a run publishes is the mean of its weights, which stands in their place while it is written."""

    model: PictureLearner
    rows: PictureRows
    stream: PictureStream | None

    def __init__(self, source: FolderSource, side: int, *arguments: Any) -> None:
        """`source`: the model's parts; `side`: pixels of a square picture; the rest as `Session` has it."""
        self.parts_of_model, self.side = source, side
        super().__init__(*arguments)

    def _load(self, source: Path, *, random_init: bool) -> tuple[ModelFamily, Any]:
        config = self.config
        pictures = load_parts(self.parts_of_model, config.seed if random_init else None)
        objective = objective_of(config, pictures.scheduler)
        if not isinstance(pictures.scheduler, FlowEuler):
            pictures.scheduler = trained_schedule(config, pictures.scheduler)
            pictures.scheduler_file = None
        self.processor = Nothing()
        self.model = PictureLearner(pictures, objective, prior_weight=config.prior_loss_weight)
        return family_of(self.parts_of_model), None

    def _choose_what_learns(
        self, family: ModelFamily, start: Path | None
    ) -> tuple[PictureAdapter | None, list[str]]:
        config, model = self.config, self.model
        parts = [model.family.part]
        if config.train_text_encoder:
            parts += [part for part in model.text_encoders() if part != "text_encoder_3"]
        adapter = PictureAdapter(model, config, start) if config.lora else None
        learning = freeze(model, config, published_name)
        inside = tuple(f"{part}." for part in parts)
        for name, parameter in model.named_parameters():
            if not published_name(name).startswith(inside):
                parameter.stop_gradient = True
        learning = [name for name in learning if published_name(name).startswith(inside)]
        model.settle()
        if adapter is not None:
            adapter.check_learning([published_name(name) for name in learning if ADAPTERS not in name])
        if self.ranks.leads:
            print(learning_table(model, published_name), file=sys.stderr)
        return adapter, learning

    def _new_optimizer(self, learning: list[str]) -> AdamW:
        config = self.config
        kind = AveragedAdamW if config.use_ema else AdamW
        made = kind(
            self.model,
            beta1=config.adam_beta1,
            beta2=config.adam_beta2,
            epsilon=config.adam_epsilon,
            weight_decay=config.weight_decay,
            rate_factors=self._rate_factors(learning),
            masters=self.precision.narrow(self.model),
            in_backward=BUNCH if config.optimizer_in_backward else 0,
        )
        if isinstance(made, AveragedAdamW):
            self.model.average = made.average_with(config.ema_decay)
        return made

    def _rate_factors(self, learning: list[str]) -> dict[str, float]:
        rate = self.config.text_encoder_lr
        if rate is None:
            return {}
        texts = [name for name in learning if published_name(name).startswith("text_encoder")]
        return dict.fromkeys(texts, rate / self.config.learning_rate)

    def _start_measuring(self, family: ModelFamily, model_config: Any, learning: list[str]) -> None:
        super()._start_measuring(family, model_config, learning)
        self.counter = PictureCounter(self.parts_of_model.geometry, self.model)

    def _open_stream(self, source: Path, reached: Progressed, start: Path | None) -> PictureStream:
        kept = ensure_class_pictures(self.model.pictures, self.config, self.rows, self.ranks, self.side)
        workers = max(self.config.dataloader_num_workers, self.activation.profile.min_loader_workers)
        return PictureStream(
            self.rows.train,
            self.config,
            self.side,
            kept=kept,
            position=reached.position,
            workers=workers,
            job=self.ranks.job,
            tokens=self.parts_of_model.geometry.tokens,
        )

    def _results(self) -> list[str]:
        return []

    def _evaluation_is_due(self, result: StepResult) -> bool:
        every = self.config.validation_epochs
        if every is None or not result.ends_epoch or result.step == self.last_step:
            return False
        return round(result.epoch) % every == 0

    def _evaluate_here(self, *, during: bool) -> dict[str, Any]:
        config, results = self.config, {}
        gallery = Gallery(self.folder.path)
        self.model.eval()
        with self.precision.computing(), self.model.published():
            prompts = list(config.validation_prompt or [])
            if prompts and (during or not config.not_validation_final):
                made = make_pictures(self.model.pictures, config, prompts, self.side)
                gallery.add(f"step {self.step}", self.step, made)
            if config.scored_digits and not during:
                results = score_digits(self.model.pictures, config, gallery, self.side)
        self.model.train()
        gallery.write()
        if during:
            self.progress.pause()
        return results
