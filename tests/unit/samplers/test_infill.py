"""The sampler for infill ends the text when the model is undecided, and otherwise keeps what stands out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llamafw import Candidates, SamplerContext
from llamafw_plugins.samplers.infill import Infill

END = b"<end>"


def left(chances: Mapping[bytes, float], *, eog: Sequence[bytes] = (END,)) -> list[bytes]:
    """Return the texts of the candidates that remain, in their order."""
    texts = list(chances)
    tokenizer: Any = SimpleNamespace(
        eog=frozenset(texts.index(text) for text in eog if text in texts) or frozenset({10**6}),
        n_vocab=len(texts),
        piece=lambda token, special=False: b"" if texts[token] in eog and not special else texts[token],
    )
    with np.errstate(divide="ignore"):
        logits = np.log(np.array(list(chances.values()))).astype(np.float32)
    candidates = Candidates(np.arange(len(texts), dtype=np.int32), logits)
    sampler = Infill.create({}, SamplerContext((), len(texts), 100, tokenizer))
    assert sampler is not None
    sampler.apply(candidates)
    kept: list[int] = candidates.ids.tolist()
    assert candidates.logits.tolist() == logits[kept].tolist()
    return [texts[i] for i in kept]


@pytest.mark.inventory("M-05")
@pytest.mark.parametrize(
    ("chances", "expected"),
    [
        ({b"a": 0.9, END: 0.1}, [b"a", END]),  # 3 · 0.1 · 2 < 0.9
        ({b"a": 0.85, END: 0.15}, [END]),  # 3 · 0.15 · 2 > 0.85
        ({b"a": 0.60, b"b": 0.25, b"c": 0.14, END: 0.01}, [b"a", END]),  # 0.25 < 1/3
        ({b"a": 0.45, b"b": 0.40, b"c": 0.14, END: 0.01}, [b"a", b"b", END]),
        ({b"hel": 0.5, b"hell": 0.2, b"hello": 0.1, b"dummy": 0.1, b"x": 0.1}, [b"hel"]),
        ({b"hello": 0.18, b"hell": 0.17, b"x": 0.15, b"y": 0.15, b"z": 0.35}, [b"z", b"hello"]),  # 0.18 + 0.17 > 1/3
        ({b"a": 0.15, b"b": 0.15, b"c": 0.15, b"d": 0.15, b"e": 0.4}, [b"e"]),
        ({b"a": 0.19, b"b": 0.19, b"c": 0.19, b"d": 0.19, b"e": 0.19, b"f": 0.05}, [b"a"]),  # nothing stands out
        ({b"a": 0.18, b"b": 0.18, b"c": 0.18, b"d": 0.18, b"e": 0.18, b"f": 0.08, END: 0.02}, [END]),
        ({b"a": 1.0, b"ab": 0.0}, [b"a"]),
    ],
)
def test_infill_keeps_what_stands_out(chances: Mapping[bytes, float], expected: list[bytes]) -> None:
    assert left(chances) == expected


def test_infill_compares_a_bounded_number_of_texts() -> None:
    chances = {b"x%d" % i: 1.0 for i in range(50_000)}
    assert left({b"x": 3e4, **chances}) == [b"x"]


def test_infill_needs_a_token_that_ends_the_text() -> None:
    tokenizer: Any = SimpleNamespace(eog=frozenset())
    assert Infill.create({}, SamplerContext((), 10, 10, tokenizer)) is None
