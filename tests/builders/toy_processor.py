"""A processor for tests of the loader: a token for each character, and questions that make it misbehave."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import numpy as np

from mix_core.errors import DataError
from mix_core.models.common.collate import collate_text


class ToyProcessor:
    """Encodes the first message's text; `[die]` and the like in it are orders."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(
        self,
        messages: list[dict[str, Any]],
        *,
        max_length: int | None,
        on_too_long: str = "error",
        describe: str,
        train_on_prompt: bool = False,
        mask_history: bool = False,
    ) -> dict[str, np.ndarray] | None:
        text = messages[0]["content"]
        self.encoded.append(text)
        obey(text, describe)
        if max_length is not None and len(text) > max_length:
            if on_too_long == "skip":
                return None
            raise DataError(f"{describe}: it has {len(text)} tokens, max_length is {max_length}")
        ids = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64)
        positions = np.broadcast_to(np.arange(len(ids)), (3, len(ids)))
        sample = {"input_ids": ids, "labels": ids, "position_ids": positions}
        if "pixels" in text:
            sample["image_patches"] = np.repeat(ids.astype(np.uint8)[:, None], 1000, axis=1)
        return sample

    def collate(
        self, samples: list[dict[str, Any]], *, packing: bool = False, padding_side: str = "right"
    ) -> dict[str, np.ndarray]:
        batch = collate_text(samples, pad_token_id=0, packing=packing, padding_side=padding_side)
        patches = [sample["image_patches"] for sample in samples if "image_patches" in sample]
        return {**batch, **({"pixel_values": np.concatenate(patches)} if patches else {})}


def obey(text: str, describe: str) -> None:
    if "[die]" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    if "[exit]" in text:
        os._exit(7)
    if "[bad]" in text:
        raise DataError(f"{describe}: a bad sample")
    if "[bug]" in text:
        raise ZeroDivisionError("a bug")
    if "[sleep]" in text:
        time.sleep(600)
    if "[modules]" in text:
        raise DataError(",".join(name for name in ("paddle", "numpy", "__mp_main__") if name in sys.modules))


def make_broken() -> ToyProcessor:
    raise DataError("this folder has no processor")


def make_with_paddle() -> ToyProcessor:
    import paddle

    assert paddle.__version__
    return ToyProcessor()


def rows_of(texts: list[str]) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": text}], "source": f"toy.json row {number}"}
        for number, text in enumerate(texts, 1)
    ]
