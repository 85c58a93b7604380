"""A model folder that recites a text, whatever it is asked: for tests of what is made of an answer.

Its layers add nothing, so that each token's embedding alone decides the next token: every token of the text
has a dimension of its own in the embedding, and the head of the token after it looks at that dimension.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer

from tests.builders.checkpoints import write_checkpoint


def write_reciting_model(folder: Path, text: str, *, whole: bool = False) -> Path:
    """Write a complete folder whose every answer is `text`.

    No token of the text may come twice; `whole` makes all of it one token of the vocabulary.
    """
    from mix_core.models.registry import load_model

    write_checkpoint(folder, tie_word_embeddings=False, vocab_size=360)
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    if whole:
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False)])
        tokenizer.save(path)
    family, config, model = load_model(folder, random_init=True)
    chain = [*tokenizer.encode("assistant\n").ids[-1:], *tokenizer.encode(text).ids]
    chain.append(tokenizer.token_to_id("<|im_end|>"))
    assert len(set(chain)) == len(chain) <= config.text.hidden_size, f"a token comes twice: {chain}"
    assert max(chain) < config.text.vocab_size
    values = {name: np.zeros(p.shape, np.float32) for name, p in model.named_parameters()}
    for name in values:
        if "norm" in name or "ln_q" in name:
            values[name] += 1
    embeddings = next(v for name, v in values.items() if name.endswith("embed_tokens.weight"))
    head = next(v for name, v in values.items() if name.endswith("lm_head.weight"))
    for dimension, (token, following) in enumerate(pairwise(chain)):
        embeddings[token, dimension] = 1
        head[following, dimension] = 1
    for name, parameter in model.named_parameters():
        parameter.set_value(values[name])
    family.save_weights(model, folder)
    return folder
