"""Conditioning of the three models beside diffusers' `encode_prompt`, with the same random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

diffusers = pytest.importorskip("diffusers", reason="live parity needs diffusers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

from mix_core.models.prompt_encoders.weights import load_prompt_encoder, save_prompt_encoder  # noqa: E402
from tests.builders.pipelines import make_pipeline  # noqa: E402
from tests.builders.text_encoders import LONG  # noqa: E402
from tests.parity.agreement import distance  # noqa: E402

LIMIT = 1e-5
"""Relative in norm."""
PROMPTS = ["a photo of an astronaut riding a horse on mars!", f"the old harbour, {LONG}"]
KINDS = ("sdxl", "sd3", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sd15", "sd3 without t5")))


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("pipeline")
    theirs = make_pipeline(request.param, folder)
    return load_prompt_encoder(folder), theirs


def their_conditioning(theirs: Any, prompts: list[str], **options: Any) -> list[Any]:
    if isinstance(theirs, diffusers.StableDiffusionPipeline):
        given = {"prompt": prompts, "device": "cpu", "num_images_per_prompt": 1, **options}
        positive, negative = theirs.encode_prompt(**given, do_classifier_free_guidance=True)
        return [positive, negative, None, None]
    more = {} if isinstance(theirs, diffusers.StableDiffusionXLPipeline) else {"prompt_3": None}
    return theirs.encode_prompt(prompt=prompts, prompt_2=None, device="cpu", **more, **options)


@pytest.mark.parametrize("clip_skip", [None, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("negatives", [None, ["blurred, text", ""]], ids=["no negative", "negatives"])
def test_encode_prompt(pair: tuple[Any, Any], negatives: list[str] | None, clip_skip: int | None) -> None:
    ours, theirs = pair
    with torch.no_grad():
        expected = their_conditioning(
            theirs, PROMPTS, negative_prompt=negatives, clip_skip=clip_skip, num_images_per_prompt=2
        )
    positive, negative = ours.pair(PROMPTS, negatives, clip_skip=clip_skip, images=2)
    found = [positive.embeds, negative.embeds, positive.pooled, negative.pooled]
    for name, mine, other in zip(("embeds", "negative", "pooled", "negative pooled"), found, expected):
        assert (mine is None) == (other is None), name
        if mine is None:
            continue
        assert mine.shape == list(other.shape), name
        if not other.any():
            assert not mine.numpy().any(), name
        else:
            assert distance(mine.numpy(), other.numpy()) < LIMIT, name


@pytest.mark.slow
def test_zeros_for_no_negative_prompt_can_be_turned_off(tmp_path: Path) -> None:
    theirs = make_pipeline("sdxl", tmp_path, force_zeros_for_empty_prompt=False)
    ours = load_prompt_encoder(tmp_path)
    with torch.no_grad():
        expected = their_conditioning(theirs, PROMPTS[:1])
    _, negative = ours.pair(PROMPTS[:1])
    assert distance(negative.embeds.numpy(), expected[1].numpy()) < LIMIT
    assert distance(negative.pooled.numpy(), expected[3].numpy()) < LIMIT
    assert np.abs(negative.embeds.numpy()).max() > 0.1


@pytest.mark.slow
def test_what_we_write_gives_the_same_conditioning_in_diffusers(
    pair: tuple[Any, Any], tmp_path: Path
) -> None:
    import transformers

    ours, theirs = pair
    save_prompt_encoder(ours, tmp_path)
    with torch.no_grad():
        expected = their_conditioning(theirs, PROMPTS)
        for suffix in ("", "_2", "_3"):
            if (tmp_path / f"text_encoder{suffix}").is_dir():
                kind = type(getattr(theirs, f"text_encoder{suffix}"))
                loaded = kind.from_pretrained(tmp_path / f"text_encoder{suffix}").eval()
                setattr(theirs, f"text_encoder{suffix}", loaded)
                kind = transformers.T5Tokenizer if suffix == "_3" else transformers.CLIPTokenizer
                setattr(theirs, f"tokenizer{suffix}", kind.from_pretrained(tmp_path / f"tokenizer{suffix}"))
        again = their_conditioning(theirs, PROMPTS)
    np.testing.assert_array_equal(again[0].numpy(), expected[0].numpy())
