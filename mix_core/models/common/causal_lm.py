"""What all models with a causal decoder share: logits, loss, and generation over a cache.

A family says how tokens and pictures become embeddings, where they stand and which rotary tables follow; the
rest is here. A batch is a dictionary of arrays under transformers' names.

Shapes: B batch, S sequence, T = B * S tokens, R chosen tokens, A axes of positions, D model dim,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core import ops
from mix_core.errors import DataError
from mix_core.models.common.cache import KVCache
from mix_core.models.common.decoder import Decoder, DecoderShape, Positions
from mix_core.models.common.embedding_noise import EmbeddingNoise
from mix_core.models.common.geometry import text_positions
from mix_core.models.common.layers import Embedding, residual
from mix_core.models.common.pieces import Cuts, Piece
from mix_core.models.common.random import SampleRandom
from mix_core.ops.dtypes import widened

Batch = dict[str, Any]


class CausalLM(nn.Layer):
    """Base of a family's model; `model` is the decoder, `lm_head` its own head or None where it is tied."""

    cuts: Cuts
    """Where the model may be cut."""

    def __init__(self, shape: DecoderShape, *, tied: bool) -> None:
        super().__init__()
        self.model = Decoder(shape)
        self.lm_head = None if tied else Embedding(shape.vocab_size, shape.hidden_size)
        self.model.embed_tokens.is_head = tied
        self.random = SampleRandom() if shape.attention_dropout else None
        """Set where training draws: the loop then calls its `start` before each forward pass."""

    def embed(self, batch: Batch) -> Tensor:
        """Embeddings of the batch's tokens (T, D), with pictures in their places."""
        return self.join(batch, self.see(batch))

    def see(
        self, batch: Batch, x: Tensor | None = None, start: int = 0, stop: int | None = None
    ) -> Tensor | None:
        """What the decoder is to see of the batch's pictures; None where it has none.

        Of a part of the way: `x` is what came out of the tower's block before `start`, and what comes out of
        the one before `stop` is returned; without `stop` the tower ends here.
        """
        raise TypeError(f"{type(self).__name__} must define see")

    def join(self, batch: Batch, seen: Tensor | None) -> Tensor:
        """Embeddings of the batch's tokens (T, D) with what `see` gave in the pictures' places."""
        raise TypeError(f"{type(self).__name__} must define join")

    def place(self, batch: Batch) -> np.ndarray:
        """Positions of the batch's tokens (A, B, S), int64; what stands at padding does not matter.

        Here one axis, on which every token advances by one, those of pictures too.
        """
        return text_positions(batch["input_ids"].shape, batch.get("attention_mask"), batch.get("cu_seqlens"))[
            None
        ]

    def tables(self, positions_ABS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin of positions, (B, S, H) each."""
        raise TypeError(f"{type(self).__name__} must define tables")

    def tables_of_rows(
        self, positions_ABS: np.ndarray, prompt_lengths_B: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """`tables`, for families whose rotary base depends on a row's length.

        prompt_lengths_B: tokens of the prompts that stand in the cache, where one more token follows each.
        """
        return self.tables(positions_ABS)

    def query_scales(self, positions_ABS: np.ndarray) -> np.ndarray | None:
        """Factors (B, S) float32 of the queries at these positions; None where all are 1."""
        return None

    @property
    def recompute(self) -> bool:
        """Whether training keeps each block's input only and computes the block again going back."""
        return self.model.recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        for layer in self.sublayers():
            if hasattr(layer, "recompute"):
                layer.recompute = value

    def add_noise(self, alpha: float) -> None:
        """Train with noise on the embeddings of text (`embedding_noise`)."""
        self.random = self.random or SampleRandom()
        self.model.embed_tokens.noise = EmbeddingNoise(alpha, self.random)

    @property
    def head(self) -> Embedding:
        """The layer whose rows are compared with hidden states."""
        return self.model.embed_tokens if self.lm_head is None else self.lm_head

    def logits(self, batch: Batch) -> Tensor:
        """Logits of all tokens (B, S, V)."""
        hidden_TD = self.hidden_states(batch)
        logits_TV = self.head.logits(hidden_TD)
        return logits_TV.reshape([*batch["input_ids"].shape, -1])

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Summed cross entropy over the batch's labels, and how many there are.

        labels (B, S) stand at their own token, -100 where none; the token before each is asked to predict it,
        never across the segments of a packed row and never padding.
        """
        targets_R, chosen_R = self._targets(batch)
        if len(chosen_R) == 0:
            return paddle.sum(widened(self.hidden_states(batch))) * 0.0, 0
        return self._loss(self.hidden_states(batch, chosen_R), targets_R)

    def part(self, batch: Batch, piece: Piece, x: Tensor | None) -> Tensor | None | tuple[Tensor, int]:
        """What a piece of the model makes of what the piece before it gave; all of them see the same batch.

        x: the tower's state, None where the batch has no picture, until the decoder begins; then hidden
        states (T, D), after the last layer those of tokens before a label. -> the same for the next piece; of
        the last one what `loss` gives.
        """
        targets_R, chosen_R = self._targets(batch)
        batch, positions, chosen = self._laid_out(batch, chosen_R if len(chosen_R) else None)
        if piece.sees:
            x = self.see(batch, x, piece.tower.start, None if piece.joins else piece.tower.stop)
        if piece.joins:
            x = self.join(batch, x)
        branch = None
        if piece.decoder:
            x, branch = self.model.run(x, positions, piece.decoder, chosen=chosen)
        if not piece.last:
            return x if branch is None else residual(x, branch)
        hidden_RD = self.model.normed(x, branch)
        if chosen is None:
            return paddle.sum(widened(hidden_RD)) * 0.0, 0
        return self._loss(hidden_RD, targets_R)

    def label_count(self, batch: Batch) -> int:
        """How many labels `loss` sums over."""
        return len(self._targets(batch)[1])

    def _targets(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that are to be predicted (R,), and the places of those before them."""
        labels_BS = host(batch["labels"])
        targets_BS = np.full_like(labels_BS, -100)
        targets_BS[:, :-1] = np.where(_mask(batch)[:, :-1], labels_BS[:, 1:], -100)
        if batch.get("cu_seqlens") is not None:
            targets_BS[:, host(batch["cu_seqlens"])[1:] - 1] = -100
        targets_T = targets_BS.reshape(-1)
        chosen_R = np.flatnonzero(targets_T != -100)
        return targets_T[chosen_R], chosen_R

    def _loss(self, hidden_RD: Tensor, targets_R: np.ndarray) -> tuple[Tensor, int]:
        return self.head.cross_entropy(hidden_RD, targets_R)

    def hidden_states(
        self, batch: Batch, chosen: np.ndarray | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """The decoder's hidden states after its last norm: (T, D), or (R, D) of the `chosen` tokens.

        Rows padded on the left are run with their padding on the right, where causal order hides it, so that
        no mask is needed; what comes back is in the batch's own order.
        """
        batch, positions, chosen = self._laid_out(batch, chosen, cache)
        return self.model(self.embed(batch), positions, cache, chosen)

    def _laid_out(
        self, batch: Batch, chosen: np.ndarray | None, cache: KVCache | None = None
    ) -> tuple[Batch, Positions, np.ndarray | None]:
        """The batch with its padding on the right, where its tokens stand, and the chosen ones there."""
        batch = {key: host(value) for key, value in batch.items() if value is not None and key != "labels"}
        positions_ABS = batch["position_ids"] if "position_ids" in batch else self.place(batch)
        order_BS = _tokens_first(batch.get("attention_mask"))
        if cache is not None:
            mask_BS = _mask(batch)
            last_B = np.where(mask_BS, positions_ABS, -1).max(axis=(0, 2))
            cache.begin(mask_BS.shape[1], mask_BS.sum(axis=1), last_B + 1)
        if order_BS is not None:
            B, S = order_BS.shape
            batch["input_ids"] = np.take_along_axis(batch["input_ids"], order_BS, 1)
            positions_ABS = np.take_along_axis(positions_ABS, order_BS[None], 2)
            place_T = (np.argsort(order_BS, axis=1) + np.arange(B)[:, None] * S).reshape(-1)
            chosen = place_T if chosen is None else place_T[chosen]
        positions = self._positions(positions_ABS, cu_seqlens=batch.get("cu_seqlens"), random=self.random)
        if self.training and self.model.embed_tokens.noise is not None:
            mask_BS = _mask(batch)
            self.model.embed_tokens.noise.place(
                mask_BS.sum(axis=1), mask_BS.shape[1], batch.get("cu_seqlens")
            )
        return batch, positions, chosen

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty cache for `batch_size` rows of at most `max_length` tokens, prompt and answer together."""
        return self.model.new_cache(batch_size, max_length)

    @paddle.no_grad()
    def prefill(self, cache: KVCache, batch: Batch) -> Tensor:
        """Run the prompts, fill the cache, return the logits (B, V) that follow the last token of each row.

        Prompts may be padded on either side.
        """
        mask_BS = _mask(batch)
        if not mask_BS.any(axis=1).all():
            raise DataError("a row of the batch has no token; a prompt needs one")
        B, S = mask_BS.shape
        last_B = S - 1 - np.argmax(mask_BS[:, ::-1], axis=1)
        hidden_BD = self.hidden_states(batch, np.arange(B) * S + last_B, cache)
        return self.head.logits(hidden_BD)

    @paddle.no_grad()
    def decode(self, cache: KVCache, token_ids_B: Any) -> Tensor:
        """One more token for each row -> the logits (B, V) that follow it."""
        ids_B = host(token_ids_B).reshape(-1)
        # all axes go on together after the prompt; the tables take as many as the family has
        positions_1B1 = cache.advance()[None, :, None]
        x_BD = self.model.embed_tokens(paddle.to_tensor(ids_B))
        hidden_BD = self.model(
            x_BD, self._positions(positions_1B1, cache.prompt_lengths_B, decoding=True), cache
        )
        return self.head.logits(hidden_BD)

    def _positions(
        self, positions_ABS: np.ndarray, prompt_lengths_B: np.ndarray | None = None, **rest: Any
    ) -> Positions:
        tables = self.tables_of_rows(positions_ABS, prompt_lengths_B)
        cos_T1H, sin_T1H = (paddle.to_tensor(table.reshape(-1, 1, table.shape[-1])) for table in tables)
        scales_BS = self.query_scales(positions_ABS)
        if scales_BS is not None:
            rest["query_scale_T11"] = paddle.to_tensor(scales_BS.reshape(-1, 1, 1))
        return Positions(rows=positions_ABS.shape[1], cos_T1H=cos_T1H, sin_T1H=sin_T1H, **rest)


def host(value: Any) -> np.ndarray:
    """The array of a tensor, or of anything numpy takes."""
    return value.numpy() if isinstance(value, Tensor) else np.asarray(value)


def _mask(batch: Batch) -> np.ndarray:
    """True at tokens, False at padding, (B, S)."""
    mask = batch.get("attention_mask")
    return np.ones(batch["input_ids"].shape, bool) if mask is None else host(mask).astype(bool)


def _tokens_first(mask_BS: np.ndarray | None) -> np.ndarray | None:
    """The order of places that brings each row's tokens before its padding; None where they already are."""
    if mask_BS is None or not (np.diff(mask_BS.astype(np.int8), axis=1) > 0).any():
        return None
    return np.argsort(mask_BS == 0, axis=1, kind="stable")


def tables_by_base(
    positions_BS: np.ndarray, keys_BS: np.ndarray, base_of: Callable[[float], float], head_dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin (B, S, H) where tokens differ in the rotary base, which follows from a key of each."""
    cos = np.empty((*positions_BS.shape, head_dim), np.float32)
    sin = np.empty_like(cos)
    for key in np.unique(keys_BS):
        here = keys_BS == key
        cos[here], sin[here] = ops.rotary_tables_1d(positions_BS[here], head_dim, base_of(key))
    return cos, sin
