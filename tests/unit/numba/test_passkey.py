"""The default model finds a passkey beyond its trained context with self-extend, and does not without."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from llamafw import graph as g
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from llamafw.testing.batches import batch
from support.numba_backend import open_backend

FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
TASK = "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
KEY = "The pass key is 28374. Remember it. 28374 is the pass key. "
QUESTION = "What is the pass key? The pass key is"
N_TRAINED = 8192


@pytest.mark.slow
@pytest.mark.inventory("K-11")
@pytest.mark.parametrize("extended", [True, False], ids=["self-extend", "plain"])
def test_default_model_finds_a_passkey_beyond_its_context(real_model: Path, extended: bool) -> None:
    """The text is that of the paper on passkeys (arXiv:2305.16300), with the key after an eighth of it."""
    plugins = Plugins()
    model = read_gguf(real_model, plugins.registry("quant"), ())
    tokenizer = plugins.registry("tokenizer")["gpt2"](model.metadata)
    tokens = tokenizer.encode(TASK + FILLER * 51 + KEY + FILLER * 357 + QUESTION)
    assert len(tokens) > N_TRAINED * 1.1
    change = partial(g.self_extend, factor=4, width=1024) if extended else None
    with open_backend(real_model, change=change, n_ctx=len(tokens) + 8, n_slots=1, n_batch=512, n_threads=2) as backend:
        text = b""
        for _ in range(4):
            for first in range(backend.truncate(0, len(tokens)), len(tokens), 512):
                part = tokens[first : first + 512]
                rows = backend.forward(batch((0, first, part), outputs=[len(part) - 1]))
            tokens.append(int(np.argmax(rows[0])))
            text += tokenizer.piece(tokens[-1])
    assert text.startswith(b" 283") == extended
