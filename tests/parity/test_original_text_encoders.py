"""Text encoders out of one file under the authors' names, as diffusers' own conversion reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

diffusers = pytest.importorskip("diffusers", reason="live parity needs diffusers")
torch = pytest.importorskip("torch", reason="live parity needs torch")
transformers = pytest.importorskip("transformers", reason="live parity needs transformers")

from safetensors.torch import save_file  # noqa: E402

from mix_core.errors import WeightsError  # noqa: E402
from mix_core.models.clip_text.config import config_from_dict, config_to_dict  # noqa: E402
from mix_core.models.clip_text.model import ClipTextModel  # noqa: E402
from mix_core.models.clip_text.original import BIG_G, VIT_L, load_original  # noqa: E402
from tests.parity.agreement import distance  # noqa: E402

SIZES = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "projection_dim": 24, "max_position_embeddings": 9, "eos_token_id": 2}
IDS = np.array([[48, 5, 6, 59, 1, 1], [48, 7, 8, 9, 59, 0]])


def open_clip_weights() -> dict[str, torch.Tensor]:
    """bigG's text half as OpenCLIP names and stores it, small."""
    torch.manual_seed(0)
    D, inner = 32, 40
    weights = {
        "positional_embedding": torch.randn(9, D),
        "token_embedding.weight": torch.randn(60, D),
        "ln_final.weight": 1 + 0.1 * torch.randn(D),
        "ln_final.bias": 0.1 * torch.randn(D),
        "text_projection": torch.randn(D, 24),
        "logit_scale": torch.zeros(()),
    }
    for i in range(2):
        shapes = {"attn.in_proj_weight": (3 * D, D), "attn.in_proj_bias": (3 * D,)}
        shapes |= {"attn.out_proj.weight": (D, D), "attn.out_proj.bias": (D,), "mlp.c_fc.weight": (inner, D)}
        shapes |= {"mlp.c_fc.bias": (inner,), "mlp.c_proj.weight": (D, inner), "mlp.c_proj.bias": (D,)}
        shapes |= {f"ln_{k}.{kind}": (D,) for k in (1, 2) for kind in ("weight", "bias")}
        for name, shape in shapes.items():
            weights[f"transformer.resblocks.{i}.{name}"] = 0.3 * torch.randn(shape)
    return weights


def test_big_g_under_open_clips_names(tmp_path: Path) -> None:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    prefix = "conditioner.embedders.1.model."
    stored = {prefix + name: tensor for name, tensor in open_clip_weights().items()}
    save_file({**stored, "model.diffusion_model.x": torch.zeros(1)}, tmp_path / "xl.safetensors")
    settings = transformers.CLIPTextConfig(**SIZES, hidden_act="gelu")
    theirs = transformers.CLIPTextModelWithProjection(settings).eval()
    converted = convert_open_clip_checkpoint(theirs, dict(stored), prefix=prefix)
    report = theirs.load_state_dict(converted, strict=False)
    assert not [name for name in report.missing_keys if not name.endswith("position_ids")]
    ours = load_original(tmp_path / "xl.safetensors", second=True, config={**BIG_G, **SIZES})
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS), output_hidden_states=True)
    found = ours(IDS)
    assert distance(found.pooled.numpy(), expected.text_embeds.numpy()) < 1e-5
    assert distance(found.hidden_states[-2].numpy(), expected.hidden_states[-2].numpy()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["cond_stage_model.transformer.", "conditioner.embedders.0.transformer."])
def test_vit_l_behind_a_prefix(tmp_path: Path, prefix: str) -> None:
    theirs = transformers.CLIPTextModel(transformers.CLIPTextConfig(**SIZES)).eval()
    stored = {prefix + name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}
    save_file(stored, tmp_path / "sd.safetensors")
    ours = load_original(tmp_path / "sd.safetensors", config={**VIT_L, **SIZES})
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS)).last_hidden_state.numpy()
    assert distance(ours(IDS).last.numpy(), expected) < 1e-5
    with pytest.raises(WeightsError, match=r"lacks the text encoder's text_model"):
        load_original(tmp_path / "sd.safetensors", second=True, config={**BIG_G, **SIZES})


@pytest.mark.slow
def test_published_sizes_have_the_published_shapes() -> None:
    import paddle

    counts: dict[str, Any] = {"L": (VIT_L, 123_060_480), "bigG": (BIG_G, 694_659_840)}
    for name, (source, numbers) in counts.items():
        config = config_from_dict(source)
        assert config_from_dict(config_to_dict(config)) == config
        with paddle.LazyGuard():
            model = ClipTextModel(config)
        assert sum(int(np.prod(p.shape)) for p in model.parameters()) == numbers, name
