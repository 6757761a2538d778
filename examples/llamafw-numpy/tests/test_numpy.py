"""In a server: the backend against Numba's, alone and in company, cached, saved, shifted."""

import asyncio
from typing import Any

import numpy as np
import pytest

BODY = {"prompt": "Hello in the nation", "n_predict": 6, "temperature": 0, "n_probs": 20, "ignore_eos": True}


@pytest.mark.parametrize("kind", ["f16", "f32"])
async def test_it_agrees_with_the_backend_of_llamafw(serve: Any, write_model: Any, kind: str) -> None:
    model = write_model(biases=True, tied=False, types={"default": "Q8_0", "attn_v": "F16"})
    answers = []
    for backend in ("numpy", "numba"):
        async with serve(model=model, backend=backend, threads=1, cache_type_k=kind, cache_type_v=kind) as client:
            answers.append((await client.post("/completion", json=BODY)).json())
    assert answers[0]["content"] == answers[1]["content"]
    first, second = (
        [one["logprob"] for one in answer["completion_probabilities"][0]["top_logprobs"]] for answer in answers
    )
    np.testing.assert_allclose(first, second, atol=0.05)  # Numba's rounds activations


async def test_answers_do_not_depend_on_company_or_cache(serve: Any) -> None:
    async with serve(backend="numpy", parallel=3, cache_ram=0) as client:

        async def ask(prompt: str) -> Any:
            return (await client.post("/completion", json={**BODY, "prompt": prompt})).json()[
                "completion_probabilities"
            ]

        prompts = ["Hello in the nation", "Something else", "And a third one, which is longer"]
        alone = [await ask(prompt) for prompt in prompts]
        assert await asyncio.gather(*map(ask, prompts)) == alone
        assert await ask(prompts[0]) == alone[0]


async def test_a_context_shifts(serve: Any) -> None:
    async with serve(backend="numpy", parallel=1, ctx_size=32, context_shift=True) as client:
        answer = (await client.post("/completion", json={**BODY, "n_predict": 60})).json()
        assert (answer["truncated"], answer["tokens_predicted"]) == (True, 60)
