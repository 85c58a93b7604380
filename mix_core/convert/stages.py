"""How layers are laid on the stages of a pipeline: MindSpeed-MM's lists, read and checked.

`[1,10,10,7]` puts one layer on the first stage, ten on each of the next two, seven on the last. Lists of
lists are for virtual pipelines: `[[1,5],[6,6]]` gives stage 0 the layers 0 and 6-11, stage 1 the layers 1-5
and 12-17.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain

from mix_core.errors import BadInputError


@dataclass(frozen=True)
class Stages:
    """Layers of each chunk, for both towers: chunk `v * stages + p` is chunk v of stage p."""

    vit: tuple[int, ...]
    llm: tuple[int, ...]
    chunks_per_stage: int = 1

    @property
    def count(self) -> int:
        """Stages of the pipeline."""
        return len(self.llm) // self.chunks_per_stage

    def layers(self, kind: str) -> tuple[int, ...]:
        return self.vit if kind == "vit" else self.llm

    def __str__(self) -> str:
        return f"vit {list(self.vit)}, llm {list(self.llm)}"


def parse_stages(vit: str | None, llm: str | None, *, vit_layers: int, llm_layers: int) -> Stages:
    """The stages that two lists ask for; without lists everything is on one.

    Raises:
        BadInputError: a list is none, they differ in length, or their layers are not the model's; the text's
            layers begin before the tower's have ended, which no pipeline can run.
    """
    if (vit is None) != (llm is None):
        raise BadInputError("--vit_pp_layers and --llm_pp_layers belong together; give both or neither")
    if vit is None or llm is None:
        return Stages((vit_layers,), (llm_layers,))
    vits, llms = _lists("vit_pp_layers", vit), _lists("llm_pp_layers", llm)
    if [len(one) for one in vits] != [len(one) for one in llms]:
        raise BadInputError(
            f"--vit_pp_layers {vit} and --llm_pp_layers {llm} must have the same number of stages"
        )
    stages = Stages(tuple(chain(*vits)), tuple(chain(*llms)), len(vits))
    for name, given, layers in (("vit", stages.vit, vit_layers), ("llm", stages.llm, llm_layers)):
        if sum(given) != layers:
            raise BadInputError(
                f"--{name}_pp_layers {list(given)} add up to {sum(given)} layers, the model has {layers}"
            )
    last_vit = max(i for i, n in enumerate(stages.vit) if n)
    first_llm = min(i for i, n in enumerate(stages.llm) if n)
    if last_vit > first_llm:
        raise BadInputError(
            f"--vit_pp_layers {vit} end on stage {last_vit} and --llm_pp_layers {llm} begin on stage "
            f"{first_llm}; the text's layers come after the tower's"
        )
    return stages


def _lists(name: str, text: str) -> list[list[int]]:
    """One list of layer numbers for each chunk of a virtual pipeline; most pipelines have one."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    lists = found if isinstance(found, list) and found and isinstance(found[0], list) else [found]
    fine = all(
        isinstance(one, list)
        and one
        and len(one) == len(lists[0])
        and all(type(n) is int and n >= 0 for n in one)
        for one in lists
    )
    if not fine or not any(map(any, lists)):
        raise BadInputError(
            f"--{name} is {text!r}, expected a list such as [1,10,10,7]: layers of each stage"
        )
    return lists
