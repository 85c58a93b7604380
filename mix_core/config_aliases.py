"""Other names that the original tools give to a key, and the keys whose answer is fixed here.

`ALIASES` maps a name to the key that means the same. `FIXED` holds keys that mix-core knows but that have
nothing to set: the capability is not built yet, the answer is settled by the design, or the key belongs to
another command. A value that asks for nothing is taken; one that asks for something is an error that says
why. docs/migrating.md lists both tables; a test compares them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mix_core.config_text import kind_of
from mix_core.errors import ConfigError


class _Silent:
    """Type of `SILENT`: the value of an alias that says nothing about its key."""


SILENT = _Silent()


@dataclass(frozen=True)
class Alias:
    """Another name of a key. `convert` turns its value into the key's (SILENT: it says nothing)."""

    key: str
    convert: Callable[[Any], Any] = lambda value: value
    boolean: bool = False
    """The value is true or false, also where the key's is not; `--name` alone then means true."""


def _opposite(value: Any) -> Any:
    return (not value) if isinstance(value, bool) else value


def _first_stage(value: Any) -> Any:
    return {True: "stage1", False: SILENT}.get(value, value) if isinstance(value, bool) else value


def _off_is_silent(value: Any) -> Any:
    return SILENT if value is None else value


def _scheduler(value: Any) -> Any:
    return "cosine" if value == "CosineDecayWithWarmup" else value


PRECISION_NAMES = {"no": "float32", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def _precision(value: Any) -> Any:
    return PRECISION_NAMES.get(value, value) if isinstance(value, str) else value


PRECISION_SWITCHES = {"bf16": "bfloat16", "fp16": "float16"}
"""Boolean names about `dtype`: true names one, false says nothing but that it is not this one."""

_SAME = {
    "max_length": ("max_seq_length", "model_max_length", "seq_length"),
    "per_device_train_batch_size": ("train_batch_size", "micro_batch_size"),
    "per_device_eval_batch_size": ("eval_batch_size",),
    "gradient_accumulation_steps": ("grad_acc", "grad_accum_steps"),
    "model_name_or_path": ("pretrained_model_name_or_path",),
    "learning_rate": ("lr",),
    "lr_scheduler_type": ("lr_scheduler", "lr_decay_style"),
    "min_learning_rate": ("eta_min", "min_lr"),
    "warmup_steps": ("lr_warmup_steps",),
    "warmup_ratio": ("lr_warmup_fraction",),
    "max_steps": ("max_train_steps", "train_iters"),
    "max_grad_norm": ("clip_grad",),
    "output_dir": ("save",),
    "save_steps": ("checkpointing_steps", "save_interval"),
    "save_total_limit": ("checkpoints_total_limit",),
    "logging_steps": ("log_interval",),
    "evaluation_strategy": ("eval_strategy",),
    "eval_steps": ("eval_interval",),
    "dataloader_num_workers": ("num_workers",),
    "image_max_pixels": ("max_pixels",),
    "image_min_pixels": ("min_pixels",),
    "image_resolution": ("max_image_size",),
    "max_samples": ("max_train_samples",),
    "sharding_parallel_degree": ("sharding_degree",),
    "tensor_parallel_degree": ("tensor_model_parallel_size",),
    "pipeline_parallel_degree": ("pipeline_model_parallel_size",),
    "lora_rank": ("rank",),
    "vit_lr": ("vision_tower_lr",),
    "weight_decay": ("adam_weight_decay",),
}
_SAME_BOOLEAN = {
    "freeze_vit": ("fix_vit", "freeze_backbone"),
    "packing": ("mixtoken",),
    "recompute": ("gradient_checkpointing", "grad_checkpoint"),
    "group_by_length": ("group_by_modality_length",),
    "lora": ("use_lora",),
}

ALIASES: dict[str, Alias] = {
    **{name: Alias(key) for key, names in _SAME.items() for name in names},
    **{name: Alias(key, boolean=True) for key, names in _SAME_BOOLEAN.items() for name in names},
    "mixed_precision": Alias("dtype", _precision),
    **{
        name: Alias("dtype", lambda value, dtype=dtype: dtype if value else SILENT, boolean=True)
        for name, dtype in PRECISION_SWITCHES.items()
    },
    "lr_scheduler_name": Alias("lr_scheduler_type", _scheduler),
    "data_path": Alias("dataset", lambda value: {"train": value}),
    "dataset.train": Alias("dataset", lambda value: {"train": value}),
    "dataset.eval": Alias("dataset", lambda value: {"eval": value}),
    "resume_from_checkpoint": Alias("resume", _off_is_silent),
    "load": Alias("resume", _off_is_silent),
    "no_load_optim": Alias("load_optimizer", _opposite, boolean=True),
    "no_load_rng": Alias("load_random_state", _opposite, boolean=True),
    "no_save_optim": Alias("save_optimizer", _opposite, boolean=True),
    "no_save_rng": Alias("save_random_state", _opposite, boolean=True),
    "use_distributed_optimizer": Alias("sharding", _first_stage, boolean=True),
    "disable_tqdm": Alias("progress_bar", _opposite, boolean=True),
}


class _Anything:
    """Accepts every value: the key has no say in what mix-core does."""

    def __contains__(self, value: object) -> bool:
        return True


ANYTHING = _Anything()


@dataclass(frozen=True)
class Fixed:
    """A known key with nothing to set."""

    kind: Literal["later", "settled", "elsewhere"]
    accepts: tuple[Any, ...] | _Anything
    """Values that ask for nothing; null always does. ANYTHING: the key has no say."""
    says: str
    """later: the capability. settled: what happens always. elsewhere: the command that takes it."""

    def check(self, name: str, value: Any, where: str) -> None:
        """Refuse a value that asks for what is not there."""
        if value is None or any(
            value is known or (value == known and type(value) is type(known)) for known in self.values
        ):
            return
        if isinstance(self.accepts, _Anything):
            return
        got = f"{where}: {name} is {kind_of(value)}"
        fine = " or ".join(json.dumps(known) for known in self.values) or "null"
        if self.kind == "later":
            raise ConfigError(
                f"{got}, which asks for {self.says}, not built yet; leave the key out or give {fine}"
            )
        if self.kind == "settled":
            raise ConfigError(f"{got}, but {self.says}; leave the key out or give {fine}")
        raise ConfigError(f"{got}; a training run has no such key: {self.says}")

    @property
    def values(self) -> tuple[Any, ...]:
        """The values that it names, none where it takes anything."""
        return () if isinstance(self.accepts, _Anything) else self.accepts


def _later(capability: str, **accepted: tuple[Any, ...] | _Anything) -> dict[str, Fixed]:
    return {name: Fixed("later", values, capability) for name, values in accepted.items()}


def _settled(what: str, **accepted: tuple[Any, ...] | _Anything) -> dict[str, Fixed]:
    return {name: Fixed("settled", values, what) for name, values in accepted.items()}


ONE_DEVICE = (1, 0, -1)
"""Degrees that mean one device, or none asked for."""

_ADAPTERS = {
    **_settled(
        "lora, lora_rank and lora_target_modules ask for adapters",
        use_llm_lora=(0,),
        use_backbone_lora=(0,),
    ),
    **_later("prefix tuning", prefix_tuning=(False,)),
    **_settled("it only has a say with prefix_tuning", num_prefix_tokens=ANYTHING),
}

_PARALLEL = {
    **_later("pipeline parallelism", pipeline_parallel_config=("",)),
    **_later("sequence parallelism", sep_parallel_degree=ONE_DEVICE, context_parallel_size=ONE_DEVICE),
    **_later("data parallelism", data_parallel_degree=ONE_DEVICE),
    **_settled(
        "it orders groups of devices", hybrid_parallel_topo_order=ANYTHING, context_parallel_algo=ANYTHING
    ),
    **_settled("a frozen stage needs no stand-in optimizer", enable_dummy_optimizer=ANYTHING),
}

_MODEL = {
    **_later("special tokens split like text", split_special_tokens=(False,)),
    **_later("a separate text model", text_model_name_or_path=()),
    **_settled(
        "the device chooses the attention kernel",
        **dict.fromkeys(
            ("use_flash_attention", "use_flash_attn", "enable_xformers_memory_efficient_attention"), ANYTHING
        ),
    ),
    **_settled("gradients are summed in float32", amp_master_grad=ANYTHING),
    **_settled("training keeps no key-value cache", use_cache=ANYTHING),
    **_later("AI Studio", from_aistudio=(False,), save_to_aistudio=(False,)),
    **_settled(
        "it only has a say with AI Studio",
        **dict.fromkeys(
            ("aistudio_repo_id", "aistudio_repo_private", "aistudio_repo_license", "aistudio_token"), ANYTHING
        ),
    ),
}

_DATA = {
    **_settled(
        "the model folder brings its chat template, and chat_template names another", template=ANYTHING
    ),
    **_settled("the model folder says how pixels are scaled", normalize_type=("imagenet",)),
    **_settled("max_length bounds prompt and answer together", src_length=ANYTHING),
    **_settled("samples are always prepared when they are needed", lazy=ANYTHING, lazy_preprocess=ANYTHING),
    **_settled(
        "dataloader_num_workers prepares samples",
        preprocessing_num_workers=ANYTHING,
        preprocessing_batch_size=ANYTHING,
    ),
    **_settled("the device decides how batches are copied", pin_memory=ANYTHING),
    **_settled(
        "the format is read from the rows", dataset_type=ANYTHING, task_name=ANYTHING, splits=ANYTHING
    ),
    **_settled("the model folder names its tokenizer", use_fast_tokenizer=ANYTHING),
    **_settled(
        "batches are drawn at random", sampler_type=("BaseRandomBatchSampler",), dataloader_mode=("sampler",)
    ),
    **_settled("padding never counts in the loss", **{"collate_param.ignore_pad_token_for_loss": (True,)}),
    **_settled("the model's processor builds its batches", **{"collate_param.model_name": ANYTHING}),
    **_later("calls of tools", tool_format=()),
    **_later(
        "other names for the keys of a row",
        **{
            "attr.system": (),
            "attr.images": ("images",),
            "attr.videos": ("videos",),
            "attr.messages": ("messages",),
            "attr.role_tag": ("role",),
            "attr.content_tag": ("content",),
            "attr.user_tag": ("user",),
            "attr.assistant_tag": ("assistant",),
            "attr.observation_tag": (),
            "attr.function_tag": (),
            "attr.system_tag": ("system",),
        },
    ),
}

_RUN = {
    **_settled("tokens_per_s is always measured", log_tps=ANYTHING),
    **_settled("answers leave the device batch by batch", eval_accumulation_steps=ANYTHING),
    **_settled("the report's gallery keeps answers", save_generation_output=(False,)),
    **_settled("evaluation takes the likeliest token", top_k=(1, 0), top_p=(1.0,)),
    **_settled(
        "weights are always safetensors in the published layout",
        save_safetensors=(True,),
        unified_checkpoint=ANYTHING,
    ),
    **_later("profiles", profiler_options=()),
}

_MEGATRON = {
    **_settled(
        "the model folder's config.json says it",
        **dict.fromkeys(
            (
                *("mm_model", "mm_tool", "tokenizer_type", "vocab_size", "make_vocab_size_divisible_by"),
                *("normalization", "swiglu", "use_mcore_models"),
            ),
            ANYTHING,
        ),
    ),
    **_settled(
        "the device chooses its kernels",
        **dict.fromkeys(("use_fused_rmsnorm", "use_fused_swiglu", "no_masked_softmax_fusion"), ANYTHING),
    ),
    **_settled("rows are as long as they are", variable_seq_lengths=ANYTHING),
    **_settled("evaluation takes every row; max_eval_samples caps them", eval_iters=ANYTHING),
    **_settled(
        "it is the launcher's",
        **dict.fromkeys(("distributed_timeout_minutes", "distributed_backend"), ANYTHING),
    ),
    **_settled("checkpoints are safetensors in the published layout", ckpt_format=ANYTHING),
}

_GENERATION = {
    **_later("a choice among the parts of a hub data set", dataset_config_name=()),
    **_later("another column for the pictures than file_name", image_column=("image",)),
    **_later("levels that are drawn unevenly", timestep_bias_strategy=("none",)),
}

_INFER = "mix-core infer --model DIR --image FILE --prompt TEXT [--draw out.png] asks a model"
_ELSEWHERE = {
    name: Fixed("elsewhere", (), _INFER) for name in ("input_image", "image_path", "prompt", "text", "visual")
}

_ELSEWHERE["merge_model_path"] = Fixed(
    "elsewhere", (), "mix-core merge-lora --model DIR --lora DIR --out DIR merges an adapter"
)

FIXED: dict[str, Fixed] = {
    **_ADAPTERS,
    **_PARALLEL,
    **_MODEL,
    **_DATA,
    **_RUN,
    **_MEGATRON,
    **_GENERATION,
    **_ELSEWHERE,
}

CONTAINERS = ("dataset_param", "preprocess_parameters", "basic_parameters", "dataloader_param")
"""Mappings of MindSpeed-MM's data.json whose keys count as keys of the configuration."""

NAMED_CONTAINERS = ("attr", "collate_param")
"""Mappings of the same file whose keys keep the mapping's name before them: `attr.role_tag`."""
