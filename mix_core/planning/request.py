"""What a user asks of a plan, checked, as what the search takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mix_core.device import choice, discovery
from mix_core.device.profile import DeviceProfile
from mix_core.errors import BadInputError
from mix_core.planning import machine
from mix_core.planning.layouts import Splits, splits_of
from mix_core.planning.memory import RECOMPUTE, UPDATE_BUNCH, Setting
from mix_core.planning.model import outline_of
from mix_core.planning.search import Wanted
from mix_core.planning.work import Numbers

TOKENS_PER_TILE = 2048
"""Without another word a row has a picture tile for each so many tokens, and one at least."""
DTYPES, LEVELS = ("float32", "bfloat16", "float16"), ("O1", "O2")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of `mix-core plan` that say what is to be planned, as given."""

    model: str
    devices: int
    memory: str | None = None
    device: str | None = None
    seq: int = 2048
    global_batch: int = 256
    tiles: float | None = None
    dtype: str = "bfloat16"
    fp16_opt_level: str = "O2"
    recompute: str = "auto"
    frozen: Sequence[str] = ()
    """Parts of the model."""
    lora_rank: int = 0
    vision_split: str | None = None
    decoder_split: str | None = None
    overlap: bool = False
    optimizer_in_backward: bool = False
    figures: Sequence[str] = field(default=())
    """`name=value` each."""

    def wanted(self) -> Wanted:
        """What to search for. Raises BadInputError for an option that cannot be."""
        self._check()
        profile = _profile(self.device)
        machine.check_devices(profile, self.devices)
        outline = outline_of(self.model)
        splits: Splits | None = None
        if self.vision_split is not None and self.decoder_split is not None:
            splits = splits_of(outline, _layers(self.vision_split), _layers(self.decoder_split))
        return Wanted(
            outline=outline,
            devices=self.devices,
            memory=machine.memory_of(self.memory, profile),
            sequence=self.seq,
            batch=self.global_batch,
            tiles=self._tiles(outline.tile_tokens),
            setting=Setting(
                numbers=Numbers.of(self.dtype, self.fp16_opt_level),
                learns={part: False for part in self.frozen},
                adapter_rank=self.lora_rank,
                bunch=UPDATE_BUNCH if self.optimizer_in_backward else 0,
            ),
            machine=machine.machine_of(profile, self.dtype, machine.figures_of(self.figures)),
            recompute=RECOMPUTE if self.recompute == "auto" else (self.recompute,),
            overlap=self.overlap,
            splits=splits,
        )

    def _check(self) -> None:
        for name, least in (("seq", 1), ("global_batch", 1), ("lora_rank", 0)):
            value = getattr(self, name)
            if value < least:
                raise BadInputError(f"--{name} is {value}; expected {least} or more")
        known = {"dtype": DTYPES, "fp16_opt_level": LEVELS, "recompute": ("auto", *RECOMPUTE)}
        for name, values in known.items():
            if getattr(self, name) not in values:
                got = getattr(self, name)
                raise BadInputError(f"--{name} is {got!r}; expected one of {', '.join(values)}")
        if self.optimizer_in_backward and self.devices > 1:
            raise BadInputError(
                f"--optimizer_in_backward is for one device, and --devices is {self.devices}: gradients are "
                "summed over devices before parameters move; leave it out, or give --devices 1"
            )
        if self.optimizer_in_backward and self.dtype == "float16":
            raise BadInputError(
                "--optimizer_in_backward cannot scale a loss, which --dtype float16 does; give bfloat16 or "
                "float32"
            )
        if (self.vision_split is None) != (self.decoder_split is None):
            raise BadInputError("give both --vision_split and --decoder_split, or neither")

    def _tiles(self, tile_tokens: int) -> float:
        tiles = float(max(1, self.seq // TOKENS_PER_TILE)) if self.tiles is None else self.tiles
        if self.tiles is None and tile_tokens > self.seq:
            return 0.0
        if not 0 <= tiles * tile_tokens <= self.seq:
            raise BadInputError(
                f"--tiles {tiles:g} takes {tiles * tile_tokens:g} tokens of pictures, a row has {self.seq}; "
                "give 0 or more that fit, or a longer --seq"
            )
        return tiles


def _profile(device: str | None) -> DeviceProfile | None:
    if device is None:
        return None
    return choice.load_candidate(choice.find_entry(device, discovery.find_entries())).profile


def _layers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInputError(f"{text!r} is no list of layers; expected whole numbers, as 32,0") from None
