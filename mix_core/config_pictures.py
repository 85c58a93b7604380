"""The keys of a run that trains a text-to-image model, as the scripts of diffusers and PaddleMIX name them.

Each means what its paper says; mix_core/training/pictures/objective.py names the papers. Keys about model,
batches, optimizer and output are those of every run (config_fields.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import field_validator

from mix_core.config_fields import Count, Keys, NonNegative, Rate, Share


class PictureKeys(Keys):
    """Text to image: models, pictures with captions, and what is learnt of them."""

    pretrained_vae_model_name_or_path: str | None = None
    """Another autoencoder than the model folder's: its folder, or a hub name."""
    dataset_name: str | None = None
    """Folder of pictures with captions or of parquet files, or the hub name of such a data set."""
    train_data_dir: str | None = None
    """Folder of pictures with captions (`metadata.jsonl`, `metadata.csv` or a text file beside each) or of
    parquet files."""
    caption_column: str = "text"
    """Column of the captions."""
    resolution: Count | None = None
    """Side of a picture, pixels. Default: the model folder's (source scripts: 512 and 1024)."""
    center_crop: bool = False
    """Keep the middle of a picture; else a place is drawn anew in each epoch."""
    random_flip: bool = False
    """Mirror every second picture, drawn anew in each epoch."""
    aspect_ratio_buckets: bool = False
    """Batches of one shape near to that of their pictures, as many pixels as a square of `resolution` at most
    (own key; Podell et al., "SDXL", 2023)."""
    bucket_step: Count = 64
    """Sides of these shapes are multiples of this, pixels (own key)."""
    proportion_empty_prompts: Share = 0.0
    """Share of prompts that are replaced by an empty one, drawn anew in each epoch: guidance needs it (Ho and
    Salimans, 2022)."""
    cache_latents: bool = False
    """Keep what the autoencoder said of a picture. Flips and `cached_crops` places are still drawn in each
    epoch, and what the latents are sampled with in each step (own key)."""
    cached_crops: Count = 4
    """Places that a picture is cut at with cache_latents and without center_crop (own key)."""
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = None
    """What the network learns to give. Default: as its scheduler's file says."""
    snr_gamma: Annotated[float, Gt(0.0)] | None = None
    """Weigh levels by min-SNR with this bound; 5 in the paper (Hang et al., 2023). Default: all alike."""
    noise_offset: Rate = 0.0
    """Size of noise that a whole channel shares (Guttenberg, 2023: 0.1)."""
    input_perturbation: Rate = 0.0
    """Size of other noise in the network's input alone (Ning et al., 2023: 0.1)."""
    rescale_betas_zero_snr: bool = False
    """Let the last level be pure noise (Lin et al., 2023; own key). For v_prediction."""
    weighting_scheme: Literal["none", "sigma_sqrt", "logit_normal", "mode", "cosmap"] = "logit_normal"
    """Which levels of a flow are learnt most (Esser et al., 2024, section 3.1)."""
    logit_mean: float = 0.0
    """Of logit_normal: below 0 favours levels with little noise."""
    logit_std: Annotated[float, Gt(0.0)] = 1.0
    """Of logit_normal: how wide it spreads."""
    mode_scale: float = 1.29
    """Of mode: above 0 favours the middle."""
    train_text_encoder: bool = False
    """Let the CLIP text encoders learn too (with lora: adapters of theirs); T5 never learns."""
    text_encoder_lr: Rate | None = None
    """Another highest rate for the text encoders. Default: learning_rate (diffusers)."""
    use_ema: bool = False
    """Keep a running mean of the weights; it is what checkpoints publish and pictures are made with (Polyak
    and Juditsky, 1992)."""
    ema_decay: Annotated[float, Ge(0.0), Lt(1.0)] = 0.9999
    """Of that mean; after n steps at most (1 + n) / (10 + n) (diffusers)."""


class DreamBoothKeys(Keys):
    """DreamBooth: a few pictures of one thing, whose class the model is not to forget (Ruiz et al., 2022)."""

    instance_data_dir: str | None = None
    """Folder with pictures of the thing; they need no captions."""
    instance_prompt: str | None = None
    """Prompt of all of them, with a rare word for the thing."""
    with_prior_preservation: bool = False
    """Learn pictures of the class beside them, made by the model before it was trained."""
    class_data_dir: str | None = None
    """Folder with pictures of the class; those that lack in number are made and written there."""
    class_prompt: str | None = None
    """Prompt of these pictures."""
    num_class_images: Count = 100
    """How many there are to be."""
    prior_loss_weight: Rate = 1.0
    """Weight of the class pictures' loss."""


class ValidationKeys(Keys):
    """Pictures that a run makes to be looked at."""

    validation_prompt: str | list[str] | None = None
    """Prompt, or several, of pictures for the report."""
    num_validation_images: Count = 4
    """Pictures of each."""
    validation_epochs: Count | None = None
    """Epochs between them. Default: only at the end."""
    not_validation_final: bool = False
    """Make none at the end (PaddleMIX)."""
    validation_steps: Count = 25
    """Steps of their sampler (own key)."""
    validation_guidance: Rate = 7.5
    """How far they are guided by the prompt; 1: not (own key)."""
    scored_digits: NonNegative = 0
    """At the end, make so many pictures of handwritten digits and let a classifier that has learnt the real
    ones name them; a multiple of 10 (own key)."""
    digit_prompt: str = "a handwritten {}"
    """Their prompt; the braces stand for the digit's name (own key)."""

    @field_validator("validation_prompt", mode="after")
    @classmethod
    def _prompts(cls, value: Any) -> Any:
        """One prompt is a list of one."""
        return [value] if isinstance(value, str) else value


PICTURE_GROUPS = (PictureKeys, DreamBoothKeys, ValidationKeys)


def picture_keys() -> Iterable[str]:
    """All keys of this file."""
    return [name for group in PICTURE_GROUPS for name in group.model_fields]


NO_SAY_WITH_PICTURES = (
    *("dataset", "meta_path", "dataset_dir", "max_samples", "max_length", "on_too_long", "packing"),
    *("chat_template", "train_on_prompt", "mask_history", "freeze_vit", "freeze_llm", "freeze_mlp"),
    *("unfreeze_vit_layers", "unfreeze_lm_head", "weight_quantize_algo", "neftune", "new_special_tokens"),
    *("resize_vocab", "use_data_resampling", "group_by_length", "first_task", "mm_projector_lr", "vit_lr"),
    *("llm_lr", "vit_layer_decay", "use_dora", "load_best_model_at_end", "early_stopping_patience"),
    *("evaluation_strategy", "do_eval", "on_bad_sample", "sharding", "sharding_parallel_degree"),
    *("tensor_parallel_degree", "sequence_parallel", "pipeline_parallel_degree"),
    *("vit_pp_layers", "llm_pp_layers", "virtual_pp_degree"),
    *("recompute_granularity", "recompute_method", "recompute_num_layers", "no_recompute_layers"),
    "overlap_grad_reduce",
)
"""Keys of a run that text-to-image training has nothing to do with."""
