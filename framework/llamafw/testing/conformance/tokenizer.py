"""What every tokenizer keeps: text comes back, tokens are of the vocabulary, text cannot pose as a special token."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from llamafw.errors import ModelError, RequestError
from llamafw.interfaces import Tokenizer
from llamafw.testing import vocabularies
from llamafw.testing.conformance.base import Conformance

VOCABULARIES = {"gpt2": vocabularies.gpt2, "llama": vocabularies.spm}
TEXTS = (
    "",
    "Hello",
    "the nation",
    "Hello, world! It's 12:30.",
    "a  b   c",
    "line\nline\r\n\r\n\tindented",
    "é è ñ Å",
    "世界 привет مرحبا",
    "😀👩‍👩‍👧",
    "e\u0301 ≠ é",
    "x" * 300,
    "\0 \x7f \ufeff \u200b",
    "0123456789" * 3,
    "{'json': [1, 2.5, null]}",
    "<not|special> </s >",
)
ALPHABET = "aeiou tnrs THE.,'\"\n\t0123é世😀\u0301\u00a0"


class TokenizerConformance(Conformance):
    """Subclass it, give the ``name``, and ``metadata`` of a small vocabulary unless it is a usual one of GGUF files.

    Attributes
    ----------
    metadata : mapping
        What a model file would say, ``tokenizer.ggml.tokens`` included: with tokens for all texts, BOS and EOS.
    """

    kind = "tokenizer"
    metadata: ClassVar[Mapping[str, Any] | None] = None

    def test_its_numbers_are_tokens(self) -> None:
        made = self.make()
        assert made.n_vocab > 0, f"n_vocab is {made.n_vocab}"
        named = {"bos": made.bos, "eos": made.eos, **{f"fim[{name}]": token for name, token in made.fim.items()}}
        for name, token in named.items():
            assert token is None or 0 <= token < made.n_vocab, f"{name} is {token}, of {made.n_vocab} tokens"
        assert all(0 <= token < made.n_vocab for token in made.eog), f"eog is {sorted(made.eog)}"
        assert made.eos is None or made.eos in made.eog, f"eos, {made.eos}, does not end a generation"
        assert not made.add_bos or made.bos is not None, "add_bos is True, and there is no bos"
        assert not made.add_eos or made.eos is not None, "add_eos is True, and there is no eos"

    def test_text_comes_back(self) -> None:
        """With one space more before it, if the tokenizer adds one."""
        made = self.make()
        for text in texts():
            tokens = made.encode(text, parse_special=False)
            bad = [token for token in tokens if not (type(token) is int and 0 <= token < made.n_vocab)]
            assert not bad, f"{text!r} has the token {bad[0]!r}, and there are {made.n_vocab}"
            back = made.decode(tokens)
            assert back in (text, f" {text}"), f"{text!r} comes back as {back!r}"

    def test_pieces_are_what_decoding_joins(self) -> None:
        """Servers send text token by token, from pieces."""
        made = self.make()
        for text in texts(30):
            tokens = made.encode(text)
            for special in (False, True):
                pieces = [made.piece(token, special=special) for token in tokens]
                assert all(type(piece) is bytes for piece in pieces), f"{text!r}: a piece is no bytes"
                joined = b"".join(pieces).decode("utf-8", "replace")
                whole = made.decode(tokens, special=special)
                assert joined in (whole, f" {whole}"), f"{text!r}: its pieces are {joined!r}"

    def test_every_token_has_a_piece(self) -> None:
        made = self.make()
        for token in range(made.n_vocab):
            piece, special = made.piece(token), made.piece(token, special=True)
            assert type(piece) is bytes, f"the piece of token {token} is {piece!r}"
            assert piece in (b"", special), f"token {token} is {piece!r}, and {special!r} as a special one"
        for token in made.eog:
            assert made.piece(token) == b"" or made.piece(token, special=True), f"token {token} is no text at all"

    def test_special_tokens_stand_at_the_ends_if_the_model_wants_them(self) -> None:
        made = self.make()
        plain, whole = made.encode("Hello"), made.encode("Hello", add_special=True)
        first = [made.bos] if made.add_bos else []
        last = [made.eos] if made.add_eos else []
        assert whole == [*first, *plain, *last], f"'Hello' is {plain}, and {whole} with special tokens"

    def test_text_cannot_pose_as_a_special_token(self) -> None:
        """With ``parse_special=False``, which is how untrusted text is read."""
        made = self.make()
        for token in made.eog | {token for token in (made.bos, made.eos) if token is not None}:
            name = made.piece(token, special=True).decode("utf-8", "replace")
            if name and made.piece(token) == b"":
                found = made.encode(f"a{name}b", parse_special=False)
                assert token not in found, f"the text {name!r} became the special token {token}"
                read = made.encode(f"a{name}b", parse_special=True)
                assert token in read, f"with parse_special the text {name!r} is {read}, without the token {token}"

    def test_what_is_no_text_and_no_token_is_refused(self) -> None:
        made = self.make()
        for text in ("\ud800", "a\udcffb"):
            with pytest.raises(RequestError):
                made.encode(text)
        for token in (-1, made.n_vocab, 2**31 - 1):
            with pytest.raises(RequestError):
                made.piece(token)
            with pytest.raises(RequestError):
                made.decode([token])

    def test_threads_may_share_it(self) -> None:
        made, some = self.make(), list(texts(40))
        alone = [made.encode(text) for text in some]
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _: [made.encode(text) for text in some], range(8)):
                assert found == alone, "on several threads, texts have other tokens than on one"

    def test_damaged_metadata_are_a_model_error(self) -> None:
        metadata = self.find_metadata()
        for key in metadata:
            for value in (None, -1, "x", [], ["x", 3], 2**40):
                damaged = {**metadata, key: value}
                if value is None:
                    del damaged[key]
                try:
                    self.thing()(damaged)
                except ModelError:
                    continue
                except Exception as error:
                    raise AssertionError(f"with {key} = {value!r}: {error!r} and no ModelError") from error

    async def test_a_server_reads_and_writes_with_it(self, serve: Any, write_model: Any) -> None:
        made, metadata = self.make(), self.find_metadata()
        model = write_model(
            tokenizer=None,
            n_vocab=made.n_vocab,
            metadata={
                "tokenizer.ggml.model": self.name,
                **{key: value for key, value in metadata.items() if value is not None},
            },
        )
        async with serve(model=model, plugin=self.plugins) as client:
            tokens = (await client.post("/tokenize", json={"content": "Hello 世界"})).json()["tokens"]
            assert tokens == made.encode("Hello 世界"), f"POST /tokenize answers {tokens}"
            back = (await client.post("/detokenize", json={"tokens": tokens})).json()["content"]
            assert back == made.decode(tokens), f"POST /detokenize answers {back!r}"
            body = {"prompt": "Hello", "n_predict": 16, "seed": 1, "ignore_eos": True, "return_tokens": True}
            answer = (await client.post("/completion", json=body)).json()
            assert made.decode(answer["tokens"]).startswith(answer["content"].rstrip("\ufffd")), "the answer's text"

    # --- how

    def find_metadata(self) -> Mapping[str, Any]:
        """Return the vocabulary to test with."""
        if self.metadata is not None:
            return self.metadata
        if self.name not in VOCABULARIES:
            pytest.skip("give the `metadata` of a small vocabulary")
        return VOCABULARIES[self.name]()

    def make(self) -> Tokenizer:
        """Return the tokenizer."""
        made: Tokenizer = self.thing()(self.find_metadata())
        return made


def texts(n: int = 200) -> Iterator[str]:
    """Yield texts of all kinds, and ``n`` random ones, always the same."""
    yield from TEXTS
    rng = random.Random(0)
    for _ in range(n):
        yield "".join(rng.choice(ALPHABET) for _ in range(rng.randrange(1, 25)))
