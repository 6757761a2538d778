"""Embeddings through the engine: pooling, batching with generations, failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from llamafw import Batch, ContextFullError, EmbedRequest, GenerationError, NotSupported, Pooling, RequestError
from llamafw.engine import BatchingEngine
from support.toy_model import N_EMBD, ToyBackend, alphabet_logits, generate_answer, random_logits

Start = Callable[..., BatchingEngine]
TEXT = tuple(range(40))
STATES = np.array([random_logits(TEXT[: i + 1])[:N_EMBD] for i in range(len(TEXT))])
POOLED = {"none": STATES, "mean": STATES.astype(np.float64).mean(axis=0)[None], "cls": STATES[:1], "last": STATES[-1:]}


@pytest.mark.inventory("E-154", "E-158", "C-099")
@pytest.mark.parametrize("pooling", POOLED)
@pytest.mark.parametrize("n_batch", [1, 7, 32])
async def test_pooling_matches_numpy(start: Start, pooling: Pooling, n_batch: int) -> None:
    engine = start(ToyBackend(n_batch=n_batch))
    found = await engine.embed(EmbedRequest(TEXT, pooling))
    np.testing.assert_allclose(found.vectors, POOLED[pooling], rtol=1e-6)
    assert (found.n_prompt, found.vectors.dtype.name) == (40, "float32")
    one = await engine.embed(EmbedRequest((5,), pooling))
    np.testing.assert_array_equal(one.vectors, random_logits((5,))[:N_EMBD][None])


async def test_mean_does_not_depend_on_how_a_text_is_divided(start: Start) -> None:
    means = [(await start(ToyBackend(n_batch=n)).embed(EmbedRequest(TEXT, "mean"))).vectors for n in (1, 7, 40)]
    np.testing.assert_array_equal(means[0], means[1])
    np.testing.assert_array_equal(means[0], means[2])


@pytest.mark.parametrize("n_batch", [7, 64])
async def test_types_of_tokens_are_those_of_the_request(start: Start, n_batch: int) -> None:
    """Tokens of a request without types are of type 0, in the same batch too."""
    backend = ToyBackend(n_slots=2, n_batch=n_batch)
    engine, types = start(backend), tuple(i % 2 for i in range(30))
    await asyncio.gather(
        engine.embed(EmbedRequest(TEXT[:30], types=types, id_slot=0)), engine.embed(EmbedRequest(TEXT[:9], id_slot=1))
    )
    found: dict[int, list[int]] = {0: [], 1: []}
    for batch in backend.hidden_batches:
        for slot, kind in zip(batch.slots.tolist(), batch.checked_types(2).tolist(), strict=True):
            found[slot].append(kind)
    assert found == {0: list(types), 1: [0] * 9}


async def test_types_without_a_token_are_refused(start: Start) -> None:
    with pytest.raises(RequestError, match="there are 1 types for 2 tokens"):
        await start(ToyBackend()).embed(EmbedRequest((1, 2), types=(1,)))


@pytest.mark.inventory("K-07")
async def test_embeddings_alternate_with_generations(start: Start) -> None:
    backend = ToyBackend(alphabet_logits, n_slots=4, n_batch=4)
    engine = start(backend)
    answers = [asyncio.create_task(generate_answer(engine, (1, 2, 3), n_predict=30, id_slot=i)) for i in (0, 1)]
    texts = [asyncio.create_task(engine.embed(EmbedRequest(TEXT, id_slot=i))) for i in (2, 3)]
    assert [len((await task).ids) for task in answers] == [30, 30]
    assert [(await task).n_prompt for task in texts] == [40, 40]
    assert all(set(batch.slots.tolist()) <= {2, 3} for batch in backend.hidden_batches)
    kinds = "".join("ga"[any(batch is other for other in backend.hidden_batches)] for batch in backend.batches)
    assert kinds.count("a") == 20  # 80 tokens, four at a time
    assert "aa" not in kinds.strip("a")  # they alternate while both run


@pytest.mark.inventory("E-155", "E-156")
@pytest.mark.parametrize(("n", "error"), [(0, ContextFullError), (65, ContextFullError)])
async def test_texts_of_invalid_length_are_refused(start: Start, n: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        await start(ToyBackend()).embed(EmbedRequest(tuple(range(n))))


async def test_unknown_tokens_are_refused(start: Start) -> None:
    with pytest.raises(RequestError, match="token 999"):
        await start(ToyBackend()).embed(EmbedRequest((999,)))


async def test_backend_failure_fails_only_the_embedding(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    backend = ToyBackend()
    engine = start(backend)
    backend.fail_on = lambda batch: 7 in batch.tokens
    with pytest.raises(GenerationError):
        await engine.embed(EmbedRequest((7,)))
    assert (await engine.embed(EmbedRequest((8,)))).n_prompt == 1


async def test_cancelled_embedding_frees_its_slot(start: Start) -> None:
    backend = ToyBackend(n_slots=1, hold=True)
    engine = start(backend)
    task = asyncio.create_task(engine.embed(EmbedRequest(TEXT)))
    await backend.wait_for_forward()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    backend.allow_forward(10)
    assert (await generate_answer(engine, (1,), n_predict=1)).finish.n_predicted == 1


# --- models whose texts must be one batch


class EncoderToyBackend(ToyBackend):
    """Keeps nothing of a text, and refuses batches that do not start at position 0."""

    whole_texts = True

    def _check(self, batch: Batch) -> None:
        self.slots = [[] for _ in self.slots]
        super()._check(batch)

    def truncate(self, slot: int, n: int) -> int:
        assert n == 0
        return 0


async def test_whole_texts_are_never_divided(start: Start) -> None:
    backend = EncoderToyBackend(n_slots=4, n_batch=50)
    engine = start(backend, n_batch=50, n_ubatch=20)
    lengths = [40, 5, 18, 30, 12, 40, 1, 50]
    found = await asyncio.gather(*(engine.embed(EmbedRequest(tuple(range(n)), "last")) for n in lengths))
    for n, embedding in zip(lengths, found, strict=True):
        np.testing.assert_array_equal(embedding.vectors[0], random_logits(range(n))[:N_EMBD])
    assert backend.n_evaluated == sum(lengths)
    assert [slot.n_tokens for slot in engine.slots()] == [0] * 4  # nothing is cached
    assert len(backend.batches) < len(lengths)  # short texts share a batch


async def test_whole_texts_that_do_not_fit_into_a_batch_are_refused(start: Start) -> None:
    engine = start(EncoderToyBackend(n_ctx=64, n_batch=50), n_batch=40)
    assert engine.n_ctx == 40
    with pytest.raises(ContextFullError, match="41 tokens, but the context of a slot has only 40"):
        await engine.embed(EmbedRequest(tuple(range(41))))


async def test_models_that_need_whole_texts_cannot_generate(start: Start) -> None:
    engine = start(EncoderToyBackend())
    with pytest.raises(NotSupported, match="cannot generate"):
        await generate_answer(engine, (1, 2))
    with pytest.raises(NotSupported, match="cannot generate"):
        await engine.preload((1, 2))


async def test_models_without_logits_can_only_embed(start: Start) -> None:
    backend = ToyBackend()
    backend.n_vocab = 0
    engine = start(backend)
    with pytest.raises(NotSupported, match="embeds texts; it cannot generate"):
        await generate_answer(engine, (1, 2))
    embedding = await engine.embed(EmbedRequest((1, 2), "last"))
    np.testing.assert_array_equal(embedding.vectors[0], random_logits((1, 2))[:N_EMBD])


async def test_failing_batch_of_whole_texts_fails_one_request(start: Start) -> None:
    backend = EncoderToyBackend(n_slots=3)
    backend.fail_on = lambda batch: 200 in batch.tokens
    engine, texts = start(backend), [(1, 2, 3), (4, 200, 5), (6, 7)]
    found = await asyncio.gather(*(engine.embed(EmbedRequest(text)) for text in texts), return_exceptions=True)
    assert [type(result).__name__ for result in found] == ["Embedding", "GenerationError", "Embedding"]
