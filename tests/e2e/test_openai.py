"""The ``openai`` client with the default model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletionMessageParam

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.mark.every_backend
@pytest.mark.inventory("E-113", "B-02")
@pytest.mark.client("openai", "chat.completions.create")
def test_chat_completion_answers_a_question(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(model="any", messages=ASK, max_tokens=16, temperature=0)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.inventory("E-114")
@pytest.mark.client("openai", "chat.completions.create")
def test_finish_reason_is_length_or_stop(openai: OpenAI) -> None:
    short = openai.chat.completions.create(model="any", messages=ASK, max_tokens=2, temperature=0)
    whole = openai.chat.completions.create(model="any", messages=ASK, max_completion_tokens=200, temperature=0)
    assert short.choices[0].finish_reason == "length"
    assert whole.choices[0].finish_reason == "stop"


@pytest.mark.every_backend
@pytest.mark.inventory("E-115", "E-116", "F-07")
@pytest.mark.client("openai", "chat.completions.create")
def test_chat_stream_has_role_then_text_then_usage(openai: OpenAI) -> None:
    plain = openai.chat.completions.create(model="any", messages=ASK, max_tokens=16, temperature=0)
    chunks = list(
        openai.chat.completions.create(
            model="any", messages=ASK, max_tokens=16, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    assert chunks[0].choices[0].delta.role == "assistant"
    assert text == plain.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == plain.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.client("openai", "chat.completions.create")
def test_choices_have_logprobs(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(
        model="any", messages=ASK, max_tokens=4, n=2, logprobs=True, top_logprobs=3, seed=7, temperature=1.5
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    content = answer.choices[0].logprobs.content if answer.choices[0].logprobs else None
    assert content
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in content)


@pytest.mark.exact
@pytest.mark.client("openai", "chat.completions.create")
def test_eight_parallel_chats_do_not_affect_each_other(openai: OpenAI) -> None:
    def ask(n: int) -> str:
        content = f"Write about the number {n}."
        answer = openai.chat.completions.create(
            model="any", messages=[{"role": "user", "content": content}], max_tokens=24, seed=n, temperature=0.9
        )
        return answer.choices[0].message.content or ""

    alone = [ask(n) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == alone


@pytest.mark.inventory("T-01")
@pytest.mark.client("openai", "completions.create")
def test_text_completion_is_the_same_in_a_stream(openai: OpenAI) -> None:
    answer = openai.completions.create(model="any", prompt="The capital of France is", max_tokens=8, temperature=0)
    assert answer.object == "text_completion"
    assert "Paris" in answer.choices[0].text
    streamed = openai.completions.create(
        model="any", prompt="The capital of France is", max_tokens=8, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


@pytest.mark.every_backend
@pytest.mark.inventory("E-152", "B-02")
@pytest.mark.client("openai", "embeddings.create")
def test_embeddings_are_normalised_and_comparable(openai: OpenAI) -> None:
    texts = ["The cat sat on the mat.", "A cat is sitting on a mat.", "Interest rates rose in March."]
    found = openai.embeddings.create(model="any", input=texts)  # the client requests base64
    cat, sitting, rates = (np.array(row.embedding) for row in found.data)
    assert abs(cat @ cat - 1) < 1e-5
    assert cat @ sitting > cat @ rates
    alone = openai.embeddings.create(model="any", input=texts[1])
    np.testing.assert_allclose(alone.data[0].embedding, sitting, atol=1e-5)  # in a batch and alone


@pytest.mark.exact
def test_embeddings_are_exactly_equal_in_a_batch_and_alone(openai: OpenAI) -> None:
    texts = ["The cat sat on the mat.", "A cat is sitting on a mat."]
    found = openai.embeddings.create(model="any", input=texts)
    alone = openai.embeddings.create(model="any", input=texts[1])
    assert alone.data[0].embedding == found.data[1].embedding


@pytest.mark.client("openai", "models.list")
def test_models_lists_one_model(openai: OpenAI) -> None:
    (model,) = openai.models.list().data
    assert model.object == "model"


@pytest.mark.client("openai", "chat.completions.create")
def test_unsupported_fields_are_refused(openai: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        openai.chat.completions.create(model="any", messages=ASK, functions=[{"name": "f", "parameters": {}}])
    assert caught.value.param == "functions"
