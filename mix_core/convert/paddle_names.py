"""PaddleNLP's and PaddleMIX's names of the published weights, and which of them they keep upright.

Names: the modelling code of PaddleMIX (qwen2_vl, qwen2_5_vl, internvl2, llava, qwen_vl) and, for the decoders
below it, of PaddleNLP. Linear maps are (in, out) there. Upright, as published, stay embeddings, tables of
positions and free parameters; convolutions, norms and biases have no other form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PaddleNames:
    """One family's names."""

    begins: tuple[tuple[str, str], ...] = ()
    """Beginnings of published names and theirs; the first that fits counts, other names are the same."""
    inner: tuple[tuple[str, str], ...] = ()
    """What is replaced in the tower's names behind their beginning."""
    upright: tuple[str, ...] = ("embed_tokens.weight",)
    """Ends of the names of matrices that are not turned."""
    may_lack: str | None = None
    """Beginning of the names of weights that are kept in another folder there."""

    def name(self, published: str) -> str:
        """Their name of a published weight."""
        for ours, theirs in self.begins:
            if published.startswith(ours):
                rest = published.removeprefix(ours)
                for part, other in self.inner if ours == _CLIP else ():
                    rest = re.sub(part, other, rest)
                return theirs + rest
        return published

    def turned(self, published: str, dimensions: int) -> bool:
        """Whether they keep this weight the other way round."""
        return dimensions == 2 and not published.endswith(self.upright)


_CLIP = "vision_tower.vision_model."
_CLIP_INNER = (
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.patch_embedding\.", "conv1."),
    (r"^embeddings\.position_embedding\.", "positional_embedding."),
    (r"^pre_layrnorm\.", "ln_pre."),
    (r"^post_layernorm\.", "ln_post."),
    (r"^encoder\.layers\.", "transformer.layers."),
    (r"\.mlp\.fc([12])\.", r".linear\1."),
    (r"\.layer_norm([12])\.", r".norm\1."),
)
"""PaddleNLP builds CLIP of Paddle's own transformer layers."""

_INTERNVL2_DECODERS = {
    "InternLM2ForCausalLM": "model",
    "Qwen2ForCausalLM": "qwen2",
    "LlamaForCausalLM": "llama",
}
"""PaddleNLP calls the body of a decoder by its kind; InternLM2 is PaddleMIX's own."""

_FAMILIES: dict[str, PaddleNames] = {
    "qwen2_vl": PaddleNames(),
    "qwen2_5_vl": PaddleNames(),
    "internvl2": PaddleNames(upright=("tok_embeddings.weight", "embed_tokens.weight")),
    "llava": PaddleNames(
        begins=(
            ("language_model.model.", "llama."),
            ("language_model.lm_head.", "lm_head."),
            ("multi_modal_projector.linear_1.", "llama.mm_projector.0."),
            ("multi_modal_projector.linear_2.", "llama.mm_projector.2."),
            ("image_newline", "llama.image_newline"),
            (_CLIP, "llama.vision_tower.vision_tower.vision_model."),
        ),
        inner=_CLIP_INNER,
        upright=("embed_tokens.weight", "position_embedding.weight"),
        may_lack="vision_tower.",
    ),
    "qwen_vl": PaddleNames(
        begins=(
            ("transformer.visual.attn_pool.", "visual.attn_pool."),
            ("transformer.visual.ln_post.", "visual.ln_post."),
            ("transformer.visual.proj", "visual.proj"),
            ("transformer.visual.", "visual.vit."),
            ("transformer.", "transformer.llm."),
        ),
        upright=("wte.weight", "positional_embedding", "pos_embed", "attn_pool.query", "visual.proj"),
    ),
}
FAMILIES = tuple(_FAMILIES)


def paddle_names(family: str, config: Any) -> PaddleNames:
    """The names of a family that is among `FAMILIES`."""
    names = _FAMILIES[family]
    if family != "internvl2":
        return names
    body = _INTERNVL2_DECODERS[config.text.architecture]
    begins = (("language_model.model.", f"language_model.{body}."),)
    return PaddleNames(begins, upright=names.upright)
