"""CLIP's text encoders and T5's beside transformers, float32, random weights: outputs, gradients, folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

from mix_core.models.clip_text.weights import load_clip_text, save_clip_text  # noqa: E402
from mix_core.models.common.weights import slots_of  # noqa: E402
from mix_core.models.t5.geometry import distance_buckets  # noqa: E402
from mix_core.models.t5.weights import load_t5, save_t5  # noqa: E402
from tests.parity.agreement import distance  # noqa: E402

OUTPUTS, GRADIENTS = 1e-5, 1e-4
"""Limits: relative in norm."""
CANNOT_LEARN = "self_attn.k_proj.bias"
"""It adds the same to all scores of a query, which softmax takes out again; its gradient is rounding."""
BEGIN, END, VOCABULARY = 96, 97, 100

CLIP = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 20,
    "projection_dim": 24,
    "bos_token_id": BEGIN,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "initializer_factor": 5.0,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 40,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_heads": 3,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 16,
    "relative_attention_max_distance": 24,
    "dropout_rate": 0.0,
    "tie_word_embeddings": False,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "L": ("CLIPTextModel", CLIP),
    "bigG": ("CLIPTextModelWithProjection", {**CLIP, "hidden_act": "gelu", "num_attention_heads": 4}),
    "L with its own end token": ("CLIPTextModelWithProjection", {**CLIP, "eos_token_id": END}),
    "T5 v1.1": ("T5EncoderModel", T5),
    "T5 v1.0": ("T5EncoderModel", {**T5, "feed_forward_proj": "relu"}),
}


def rows_of_ids() -> np.ndarray:
    """Three rows of text, its end at different places, padded with the end token or with 0."""
    rng = np.random.default_rng(3)
    ids = rng.integers(3, 90, (3, 20))
    ids[:, 0] = BEGIN
    for row, (end, padding) in enumerate(((19, END), (7, END), (11, 0))):
        ids[row, end:] = padding
        ids[row, end] = END
    return ids


def their_model(name: str) -> Any:
    torch.manual_seed(0)
    class_name, settings = MODELS[name]
    config = transformers.T5Config if class_name == "T5EncoderModel" else transformers.CLIPTextConfig
    model = getattr(transformers, class_name)(config(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, or their place would not be seen
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def loader(name: str) -> Callable[..., Any]:
    return load_t5 if name.startswith("T5") else load_clip_text


FAST = ("bigG", "T5 v1.1")


@pytest.fixture(
    scope="module",
    params=[name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("encoder")
    theirs = their_model(request.param)
    theirs.save_pretrained(folder)
    return loader(request.param)(folder), theirs


def outputs_of(ours: Any, theirs: Any, ids: np.ndarray) -> list[tuple[str, Any, Any]]:
    """What both give, by name."""
    given = torch.tensor(ids)
    if isinstance(theirs, transformers.T5EncoderModel):
        return [("last", ours(ids), theirs(given).last_hidden_state)]
    encoded, expected = ours(ids), theirs(given, output_hidden_states=True)
    assert len(encoded.hidden_states) == len(expected.hidden_states)
    named = [
        (f"state {i}", *both) for i, both in enumerate(zip(encoded.hidden_states, expected.hidden_states))
    ]
    pooled = expected.text_embeds if ours.config.projected else expected.pooler_output
    return [*named, ("last", encoded.last, expected.last_hidden_state), ("pooled", encoded.pooled, pooled)]


def test_outputs_and_gradients(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    rng = np.random.default_rng(0)
    loss, their_loss = 0.0, 0.0
    for name, found, expected in outputs_of(ours, theirs, rows_of_ids()):
        assert distance(found.numpy(), expected.detach().numpy()) < OUTPUTS, name
        weights = rng.standard_normal(found.shape).astype(np.float32)
        loss = loss + (found * paddle.to_tensor(weights)).sum()
        their_loss = their_loss + (expected * torch.tensor(weights)).sum()
    theirs.zero_grad()
    ours.clear_gradients(set_to_zero=False)
    loss.backward()
    their_loss.backward()
    gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    whole = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    slots = slots_of(ours)
    assert set(slots) == set(gradients)
    for name, slot in slots.items():
        found, expected = slot.to_published(slot.parameter.grad.numpy()), gradients[name]
        if name.endswith(CANNOT_LEARN):
            assert max(np.linalg.norm(found), np.linalg.norm(expected)) < 1e-6 * whole
            continue
        assert np.linalg.norm(found - expected) <= GRADIENTS * max(np.linalg.norm(expected), 1e-6 * whole), (
            name
        )


def test_recomputed_layers_give_the_same_gradients(pair: tuple[Any, Any]) -> None:
    ours, _ = pair
    found = []
    ours.train()
    for ours.recompute in (False, True):
        ours.clear_gradients(set_to_zero=False)
        encoded = ours(rows_of_ids())
        last = encoded if isinstance(encoded, paddle.Tensor) else encoded.last
        (last * paddle.arange(last.shape[-1]).astype("float32")).sum().backward()
        found.append({name: p.grad.numpy() for name, p in ours.named_parameters() if p.grad is not None})
    ours.eval()
    ours.recompute = False
    assert set(found[0]) == set(found[1])
    for name, gradient in found[0].items():
        np.testing.assert_allclose(found[1][name], gradient, rtol=1e-4, atol=1e-4 * np.abs(gradient).max())


@pytest.mark.parametrize("shard_bytes", [20_000, pytest.param(1 << 30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param("L", marks=pytest.mark.slow), "bigG", "T5 v1.1"])
def test_folders_go_both_ways(tmp_path: Path, name: str, shard_bytes: int) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    theirs = their_model(name)
    theirs.save_pretrained(first, max_shard_size=shard_bytes)
    ours = loader(name)(first)
    second.mkdir()
    (save_t5 if name.startswith("T5") else save_clip_text)(ours, second, max_shard_bytes=shard_bytes)
    assert (len(list(second.glob("*.safetensors"))) > 1) is (shard_bytes < 1 << 20)
    loaded, report = type(theirs).from_pretrained(second, output_loading_info=True)
    assert not any(report.values()), report
    for (key, found), (_, expected) in zip(loaded.named_parameters(), theirs.named_parameters(), strict=True):
        np.testing.assert_array_equal(found.detach().numpy(), expected.detach().numpy(), err_msg=key)
    written, read = loaded.config.to_dict(), theirs.config.to_dict()
    for key in (key for key in MODELS[name][1] if not key.startswith("init")):
        assert written[key] == read[key], key


@pytest.mark.slow
def test_a_whole_t5_serves_as_its_encoder(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)).eval()
    theirs.save_pretrained(tmp_path)
    ids = rows_of_ids()
    with torch.no_grad():
        expected = theirs.encoder(torch.tensor(ids)).last_hidden_state.numpy()
    assert distance(load_t5(tmp_path)(ids).numpy(), expected) < OUTPUTS


@pytest.mark.parametrize("buckets,farthest", [(32, 128), (16, 24), (8, 20)])
def test_distances_fall_into_the_same_buckets(buckets: int, farthest: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    places = torch.arange(600)
    expected = T5Attention._relative_position_bucket(
        places[None] - places[:, None], num_buckets=buckets, max_distance=farthest
    )
    np.testing.assert_array_equal(distance_buckets(600, buckets, farthest), expected.numpy())
