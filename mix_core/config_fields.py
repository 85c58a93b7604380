"""The keys of a run configuration that do something, by subject: meaning, unit, default and its source.

A docstring under a key is what `--help` says about it. The default is the original tools' (PaddleNLP's
TrainingArguments unless another is named) where they have the key. Values are checked strictly: a text is no
number.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from mix_core.config_aliases import FIXED

Count = Annotated[int, Ge(1)]
NonNegative = Annotated[int, Ge(0)]
Rate = Annotated[float, Ge(0.0)]
StageLayers = list[Annotated[int, Ge(0)]] | list[list[Annotated[int, Ge(0)]]]
Share = Annotated[float, Ge(0.0), Le(1.0)]
Metric = Literal["exact", "f1", "anls", "iou", "iou50"]
Reporter = Literal["visualdl", "tensorboard", "wandb"]


class Keys(BaseModel):
    """Base of all groups of keys."""

    model_config = ConfigDict(
        extra="forbid", strict=True, use_attribute_docstrings=True, validate_default=False
    )


class DatasetEntry(Keys):
    """One file of rows within `dataset`."""

    name: str | None = None
    """A name for messages. The original tools' names (chatml_dataset, coco_caption) are taken; the format is
    read from the rows themselves."""
    data_files: str
    """The JSON or JSON-lines file; `file.json#500` reads its first 500 rows."""
    max_samples: Count | None = None
    """Read at most so many rows. Default: all."""
    repeat_time: Annotated[float, Gt(0.0)] = 1.0
    """How often the rows come in an epoch: 3 repeats them; with 0.5 each epoch has half of them, in turn
    (InternVL2, Qwen2.5-VL: always the same half; max_samples does that)."""
    weight: Rate | None = None
    """Share of an epoch, in proportion to the other sets' weights. Default: its rows times repeat_time
    (own key)."""
    root: str | None = None
    """Folder in which relative image paths start. Default: dataset_dir, else the folder of the rows' file
    (InternVL2)."""
    prompt: str | None = None
    """What a row with a caption alone answers. Default: Describe the image. (own key)"""
    chat_template: str | None = None
    """Another chat template for these rows: a file or a name, as the key of the run. One that all sets to
    train on name is saved with the model, else the run's is (PaddleMIX)."""
    max_dynamic_patch: Count | None = None
    """Most tiles of a picture of these rows, in place of the run's; InternVL2 alone cuts so (InternVL2)."""

    @model_validator(mode="before")
    @classmethod
    def _fixed_keys(cls, value: Any) -> Any:
        """Keys of an entry that have nothing to set, such as splits."""
        if not isinstance(value, dict):
            return value
        for key in value.keys() & FIXED.keys():
            FIXED[key].check(key, value[key], f"dataset entry {value.get('data_files', '')}")
        return {key: inner for key, inner in value.items() if key not in FIXED}


class DatasetKeys(Keys):
    """The value of `dataset`."""

    train: str | list[DatasetEntry] | None = None
    """Rows to train on: `a.json,b.json#500`, or a list of entries."""
    eval: str | list[DatasetEntry] | None = None
    """Rows held out for evaluation, written the same way."""

    @model_validator(mode="before")
    @classmethod
    def _bare_value_is_train(cls, value: Any) -> Any:
        return {"train": value} if isinstance(value, (str, list)) else value


class ModelKeys(Keys):
    """Which model, in which precision, and what of it learns."""

    model_name_or_path: str | None = None
    """Model folder in the published layout, or a hub name."""
    revision: str | None = None
    """Branch, tag or commit on the hub. Default: the main branch (own key)."""
    from_scratch: bool = False
    """Random weights from `seed`; the model folder then needs no weight files (own key)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number type of the computation (Qwen-VL; bf16, fp16 and mixed_precision say the same)."""
    fp16_opt_level: Literal["O0", "O1", "O2"] = "O1"
    """With a 16-bit dtype, O1 keeps float32 parameters; O2 keeps them in 16 bits, beside float32 masters."""
    scale_loss: Annotated[float, Ge(1.0)] = 32768.0
    """First factor on the loss with float16; it changes by itself (PaddleNLP)."""
    recompute: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time. Another of these keys
    alone turns it on."""
    recompute_granularity: Literal["full", "full_attn", "selective"] | None = None
    """How much of a block: full (default), or the half with the attention (PaddleNLP, MindSpeed-MM)."""
    recompute_method: Literal["uniform", "block"] | None = None
    """Which blocks: uniform is all, block the first recompute_num_layers (MindSpeed-MM)."""
    recompute_num_layers: Count | None = None
    """Blocks from the start, of tower and decoder each, with recompute_method block (MindSpeed-MM)."""
    no_recompute_layers: list[Annotated[int, Ge(0)]] | None = None
    """Blocks, counted from 0, that keep their activations all the same (PaddleNLP)."""
    freeze_vit: bool = False
    """Keep the vision tower as it is."""
    freeze_llm: bool = False
    """Keep the language model as it is (InternVL2, Qwen2.5-VL)."""
    freeze_mlp: bool = False
    """Keep the projector between tower and language model as it is (InternVL2)."""
    unfreeze_vit_layers: int = 0
    """The blocks of a frozen vision tower from this one on learn, counted from 0; -4: the last four; 0: none
    (InternVL2)."""
    unfreeze_lm_head: bool = False
    """The output head of a frozen language model learns (InternVL2)."""
    freeze_include: list[str] | None = None
    """Patterns (shell style) of parameter names to freeze."""
    freeze_exclude: list[str] | None = None
    """Patterns of parameter names that learn although another key freezes them."""
    lora: bool = False
    """Train low-rank adapters and keep the weights as they are; a tower or projector learns beside them where
    its freezing key is given as false."""
    lora_rank: Count = 128
    """Rank of an adapter's matrices (PaddleMIX)."""
    lora_alpha: Annotated[float, Gt(0.0)] = 256.0
    """An adapter's part is multiplied by this over its rank (PaddleMIX)."""
    lora_dropout: Annotated[float, Ge(0.0), Lt(1.0)] = 0.0
    """Share of its inputs that an adapter does not see in training (PaddleMIX)."""
    lora_target_modules: str | list[str] | None = None
    """Modules that get an adapter, by published name: a regular expression for the whole name or the name's
    end, or a list of them. Default: all linear maps of the language model."""
    lora_path: str | None = None
    """Adapter to start from: its folder (PaddleMIX)."""
    use_rslora: bool = False
    """Divide lora_alpha by the root of the rank, not the rank (PEFT)."""
    use_dora: bool = False
    """Let each output's length learn apart from its direction (PEFT)."""
    weight_quantize_algo: Literal["weight_only_int8"] | None = None
    """Keep the language model's frozen matrices under adapters in 8 bits, with a scale for each output
    (PaddleNLP)."""
    neftune: bool = False
    """Add noise to the embeddings of text while training (PaddleMIX; Jain et al., "NEFTune", 2023)."""
    neftune_noise_alpha: Annotated[float, Gt(0.0)] = 5.0
    """Size of that noise (PaddleMIX)."""
    new_special_tokens: list[str] | None = None
    """Tokens to add to the tokenizer; their embeddings start at the mean of the others (MindSpeed-MM)."""
    resize_vocab: bool = False
    """Let embedding and head grow where the tokenizer has more tokens than rows (Qwen2.5-VL)."""

    @field_validator("new_special_tokens", mode="before")
    @classmethod
    def _tokens(cls, value: Any) -> Any:
        """A text names several with commas (MindSpeed-MM)."""
        return [token for token in value.split(",") if token] if isinstance(value, str) else value


class DataKeys(Keys):
    """Rows, and how they become samples and batches."""

    dataset: DatasetKeys = DatasetKeys()
    """Rows to train on and to evaluate on. A bare text or list is `train`."""
    meta_path: str | None = None
    """JSON file {name: {annotation or file_name, root, repeat_time}}: the sets to train on (InternVL2,
    Qwen2.5-VL)."""
    bundled_data: Literal["digits"] | None = None
    """A data set that mix-core carries; it is written into the cache folder when absent (own key)."""
    dataset_dir: str | None = None
    """Folder in which relative image paths start. Default: the folder of the rows' file (MindSpeed-MM)."""
    max_samples: Count | None = None
    """Train on at most so many rows of each set. Default: all (MindSpeed-MM)."""
    max_length: Count = 2048
    """Longest sample, in tokens, images included."""
    on_too_long: Literal["error", "skip", "truncate"] = "error"
    """A longer sample stops the run, is left out, or is cut at its end, pictures staying whole (own key)."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """A row to train on that cannot be used (broken picture, missing key, address without answer) stops the
    run, or is left out and counted. Held-out rows must be good (own key)."""
    packing: bool = False
    """Fill each pass (per_device_train_batch_size times max_length tokens) with samples that do not see each
    other."""
    chat_template: str | None = None
    """How conversations become text: a Jinja file, a chat_template.json of PaddleNLP, or the name of a
    template that ships with mix-core. Default: the model folder's (PaddleMIX)."""
    train_on_prompt: bool = False
    """Learn the user's text too (MindSpeed-MM)."""
    mask_history: bool = False
    """Learn only the last answer of a conversation (MindSpeed-MM)."""
    image_max_pixels: Count | None = None
    """Largest image, in pixels after resizing. Default: the model folder's (MindSpeed-MM)."""
    image_min_pixels: NonNegative | None = None
    """Smallest image, in pixels after resizing. Default: the model folder's (MindSpeed-MM)."""
    video_max_pixels: Count | None = None
    """Largest video frame, in pixels after resizing. Default: the model folder's (MindSpeed-MM)."""
    video_min_pixels: NonNegative | None = None
    """Smallest video frame, in pixels after resizing. Default: the model folder's (MindSpeed-MM)."""
    image_resolution: Count | None = None
    """Longest side of a picture, in pixels: larger ones shrink to it before the limits of the area apply.
    Default: no such limit (Qwen2.5-VL: 768)."""
    video_resolution: Count | None = None
    """The same for video frames. Default: no such limit (Qwen2.5-VL: 256)."""
    video_fps: Annotated[float, Gt(0.0)] | None = None
    """Frames to take from a second of video. Default: the model folder's (Qwen2.5-VL, MindSpeed-MM: 2)."""
    video_maxlen: Count | None = None
    """Most frames of a video. Default: the model folder's (Qwen2.5-VL: 128, MindSpeed-MM: 64)."""
    allow_private_urls: bool = False
    """Let image addresses point into private networks (own key)."""
    use_data_resampling: bool = False
    """Draw from each set in proportion to the square root of its size, repeat_time counted (Qwen2.5-VL,
    InternVL2)."""
    group_by_length: bool = False
    """Put rows of like length into one batch; lengths are estimated from text and picture sizes
    (InternVL2)."""
    shuffle: bool = True
    """A new order each epoch, from `data_seed` (MindSpeed-MM)."""
    first_task: str | None = None
    """The first epoch visits the rows of this task (the rows' field `task`) before the others (own key)."""
    data_seed: NonNegative | None = None
    """Seed of that order. Default: `seed`."""
    drop_last: bool = False
    """Leave out an epoch's last batch when it is not full (MindSpeed-MM)."""
    dataloader_num_workers: NonNegative = 0
    """Processes that prepare samples; 0: the training process does, unless the device asks for more."""
    cache_dir: str | None = None
    """Folder for bundled data and prepared samples. Default: MIX_CACHE, else ~/.cache/mix_core."""


class TileKeys(Keys):
    """Keys of InternVL2's trainer, which change what the model folder's config.json says and are written into
    that of the checkpoints. Other families refuse those that they cannot follow."""

    force_image_size: Count | None = None
    """Side of a tile, in pixels; learned positions are resized. Default: the model folder's (InternVL2)."""
    dynamic_image_size: bool | None = None
    """Cut a picture into several tiles. Default: the model folder's (InternVL2: false)."""
    min_dynamic_patch: Count | None = None
    """Fewest tiles of a picture. Default: the model folder's (InternVL2: 1)."""
    max_dynamic_patch: Count | None = None
    """Most tiles of a picture, without the thumbnail. Default: the model folder's (InternVL2: 12)."""
    use_thumbnail: bool | None = None
    """Let the whole picture follow its tiles. Default: the model folder's (InternVL2: false)."""
    pad2square: bool | None = None
    """Put bars of the mean colour around a picture that is not cut into tiles, so that it keeps its ratio of
    sides (InternVL2, LLaVA-1.5). Default: the model folder's."""
    down_sample_ratio: Annotated[float, Gt(0.0), Le(1.0)] | None = None
    """Tokens on a side of a tile over its patches. It must be the model folder's: the projector's width
    follows from it (InternVL2)."""
    ps_version: Literal["v1", "v2"] | None = None
    """Order of a tile's tokens: by rows (v2) or columns (v1). Default: the model folder's (InternVL2: v2)."""
    vision_select_layer: int | None = None
    """Which layer of the tower is looked at: -1 the last. Default: the model folder's (InternVL2: -1)."""
    drop_path_rate: Annotated[float, Ge(0.0), Lt(1.0)] | None = None
    """Stochastic depth of the tower's last layer in training; it grows from 0 in the first. Default: the
    model folder's (InternVL2: 0)."""
    conv_style: str | None = None
    """InternVL2's name of a conversation template. Other families have the model folder's; chat_template
    names any other."""


class BatchKeys(Keys):
    """How much one step sees, and how long a run is."""

    per_device_train_batch_size: Count = 8
    """Samples in one forward pass; with packing, it holds so many times max_length tokens."""
    gradient_accumulation_steps: Count = 1
    """Forward passes in one optimizer step."""
    global_batch_size: Count | None = None
    """Samples in one step: batch x accumulation x devices. Alone it sets the accumulation (MindSpeed-MM)."""
    num_train_epochs: Annotated[float, Gt(0.0)] = 1.0
    """Passes over the rows, when max_steps does not say how long. With packing, or when rows may be left out,
    the steps of more than 512 rows are estimated from the lengths of 512."""
    max_steps: int = -1
    """Optimizer steps; 0 or less: num_train_epochs decides."""


class OptimizerKeys(Keys):
    """AdamW, its rates and its schedule."""

    optim: Literal["adamw", "adamw_torch", "adamw_paddle"] = "adamw"
    """The optimizer: AdamW with decoupled weight decay, none of it on norms and biases."""
    learning_rate: Rate = 5e-5
    """Highest learning rate."""
    mm_projector_lr: Rate | None = None
    """Another highest rate for the projector. Default: learning_rate (LLaVA)."""
    vit_lr: Annotated[float, Gt(0.0)] | None = None
    """Another highest rate for the vision tower without its projector. Default: learning_rate (Qwen2.5-VL:
    vision_tower_lr)."""
    llm_lr: Annotated[float, Gt(0.0)] | None = None
    """Another highest rate for the language model. Default: learning_rate (own key)."""
    vit_layer_decay: Annotated[float, Gt(0.0), Le(1.0)] = 1.0
    """Each block of the vision tower learns at so many times the rate of the block above it (own key; Clark
    et al., "ELECTRA", 2020)."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """How the rate falls after the warm-up."""
    warmup_steps: NonNegative = 0
    """Steps of warm-up; above 0 it wins over warmup_ratio."""
    warmup_ratio: Share = 0.0
    """Share of all steps that warm up."""
    warmup_start_lr: Rate = 0.0
    """Rate at which the warm-up starts."""
    min_learning_rate: Rate = 0.0
    """Rate at which the run ends."""
    weight_decay: Rate = 0.0
    """Decoupled decay of weights; norms and biases have none."""
    adam_beta1: Annotated[float, Ge(0.0), Lt(1.0)] = 0.9
    """Decay of the gradient's mean."""
    adam_beta2: Annotated[float, Ge(0.0), Lt(1.0)] = 0.999
    """Decay of the squared gradient's mean."""
    adam_epsilon: Annotated[float, Gt(0.0)] = 1e-8
    """Added to the denominator."""
    max_grad_norm: Rate = 1.0
    """Gradients are scaled down to this global norm; 0: never."""
    optimizer_in_backward: bool = False
    """Update each parameter as soon as it has its gradient, so that all gradients never stand in memory. One
    pass a step, one device, no clipping, no loss scale (own key; Lv et al., "LOMO", 2023)."""


class LayoutKeys(Keys):
    """How several devices share a run."""

    sharding: Literal["", "none", "stage1", "stage2", "stage3"] = ""
    """What data-parallel devices share. stage1: moments and masters; stage2: gradients too; stage3:
    parameters too, and blocks are computed again going back. Default: nothing."""
    sharding_parallel_degree: Annotated[int, Ge(-1)] = -1
    """Devices that share, a divisor of their number; the others have the same again. Default: all."""
    tensor_parallel_degree: Annotated[int, Ge(-1)] = 1
    """Devices among which every layer is divided: heads, feed-forward numbers, words of the vocabulary. Below
    2: none."""
    sequence_parallel: bool = False
    """With tensor_parallel_degree above 1: between divided layers each of these devices keeps some of the
    tokens, which saves memory."""
    pipeline_parallel_degree: Annotated[int, Ge(-1)] = 1
    """Stages among which the layers are divided, with a device or more for each. Below 2: none."""
    vit_pp_layers: StageLayers | None = None
    """Blocks of the vision tower on each stage of the pipeline, `[32, 0, 0, 0]`; a list of lists with several
    pieces a stage. Belongs with llm_pp_layers. Default: by cost."""
    llm_pp_layers: StageLayers | None = None
    """Layers of the decoder on each stage, `[1, 10, 10, 7]`. The tower comes first."""
    virtual_pp_degree: Count = 1
    """Pieces of the model on each stage of the pipeline: more wait less and send more."""
    overlap_grad_reduce: bool = False
    """Sum gradients over devices while the last pass goes back. Has no say with sharding (MindSpeed-MM)."""

    @field_validator("sharding", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return "" if value is None else value

    @field_validator("tensor_parallel_degree", "pipeline_parallel_degree", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return 1 if value is None else value


class EvaluationKeys(Keys):
    """When and how the held-out rows are asked."""

    evaluation_strategy: Literal["no", "steps", "epoch"] = "no"
    """When to evaluate during training."""
    eval_steps: Count | None = None
    """Steps between evaluations with strategy `steps`. Default: logging_steps."""
    do_eval: bool | None = None
    """Evaluate at the end. Default: when there are held-out rows; a strategy but `no` means yes too."""
    per_device_eval_batch_size: Count = 8
    """Samples in one batch of evaluation."""
    eval_with_do_generation: bool = True
    """Let the model answer, and score exact matches and boxes; false: only the loss (PaddleMIX: false)."""
    eval_metrics: list[Metric] = ["exact", "iou"]
    """Scores of answers. Texts: exact, f1 (words, SQuAD), anls (spelling, ST-VQA). Boxes: iou, iou50 (own
    key)."""
    eval_max_new_tokens: Count = 64
    """Longest answer, in tokens (own key)."""
    max_eval_samples: Count | None = None
    """Evaluate at most so many rows during training; at the end all are. Default: all (own key)."""
    gallery_samples: NonNegative = 48
    """Held-out pictures shown in the report (own key)."""
    metric_for_best_model: str | None = None
    """Which result of evaluation during training says how good the model is, with or without `eval_` before
    it. The best checkpoint is then kept. Default: loss, where another key asks for the best."""
    greater_is_better: bool | None = None
    """Whether more of it is better. Default: yes, but not for a name that ends in loss."""
    load_best_model_at_end: bool = False
    """End with the weights of the best checkpoint: the last evaluation and the gallery are theirs."""
    early_stopping_patience: Count | None = None
    """Stop after so many evaluations in a row that bring no improvement (transformers)."""
    early_stopping_threshold: Rate = 0.0
    """What counts as an improvement is more than this (transformers)."""


class OutputKeys(Keys):
    """What a run leaves behind, and how it goes on."""

    output_dir: str | None = None
    """The run folder. Default: runs/NAME, by the name of the recipe or the configuration."""
    overwrite_output_dir: bool = False
    """Empty a run folder that another run has filled."""
    resume: str = "no"
    """no; auto: the newest whole checkpoint, if any; a step; or the path of a checkpoint or a run folder."""
    load_optimizer: bool = True
    """Take the optimizer's moments from the checkpoint (MindSpeed-MM: no-load-optim)."""
    load_random_state: bool = True
    """Take random state and place in the data from the checkpoint (MindSpeed-MM: no-load-rng)."""
    save_optimizer: bool = True
    """Store the optimizer's moments in checkpoints (MindSpeed-MM: no-save-optim)."""
    save_random_state: bool = True
    """Store random state in checkpoints (MindSpeed-MM: no-save-rng)."""
    save_strategy: Literal["no", "steps", "epoch"] = "steps"
    """When to write checkpoints; `no`: only the one at the end."""
    save_steps: Count = 500
    """Steps between checkpoints with strategy `steps`."""
    save_total_limit: Count | None = None
    """Keep the newest so many checkpoints, the best one among them. Default: all."""
    logging_steps: Count = 10
    """Steps between lines on the screen; metrics.jsonl has every step (PaddleNLP: 500)."""
    progress_bar: bool = True
    """A moving bar when the output is a terminal."""
    benchmark: bool = False
    """Measure only: no checkpoint at the end (PaddleMIX)."""
    skip_memory_metrics: bool = False
    """Leave memory_bytes out of metrics.jsonl."""
    module_stats_steps: NonNegative = 0
    """Steps between norms of each module's gradients and parameters in metrics.jsonl; 0: never (own key)."""
    report_to: list[Reporter] | None = None
    """Also report what metrics.jsonl holds to: visualdl, tensorboard, wandb (each needs its package)."""
    logging_dir: str | None = None
    """Folder of these reports. Default: `curves` in the run folder."""

    @field_validator("report_to", mode="before")
    @classmethod
    def _reporters(cls, value: Any) -> Any:
        """A text names several with commas; `none` and an empty text name nobody."""
        if not isinstance(value, str):
            return value
        names = [name.strip() for name in value.split(",") if name.strip()]
        return None if names in ([], ["none"]) else names


class RunKeys(Keys):
    """Device, seeds and the kind of run."""

    device: str | None = None
    """Device, as `cpu`, `NAME` or `NAME:1` of a plugin. Default: MIX_DEVICE, else the best usable one."""
    simulate: bool = False
    """Run on a simulated device (own key; also MIX_SIMULATE=1)."""
    kernels: Literal["auto", "reference"] = "auto"
    """`reference` switches every fused kernel off (own key)."""
    seed: NonNegative = 42
    """Seed of weights, dropout and, without data_seed, the order of the rows."""
    peak_tflops: Annotated[float, Gt(0.0)] | None = None
    """Peak of one device in the run's dtype, 10^12 flop/s, for mfu. Default: what the device's profile states
    (own key)."""
    deterministic: bool = False
    """Ask the device for kernels that repeat bit for bit; the CPU's always do (own key)."""
    do_train: bool = True
    """false: only evaluate."""
