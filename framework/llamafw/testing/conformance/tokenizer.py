"""The rules for tokenizers: text survives a round trip, tokens are in range, text cannot forge special tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llamafw.errors import ModelError, RequestError
from llamafw.interfaces import Tokenizer
from llamafw.testing import vocabularies
from llamafw.testing.conformance.base import ProtocolConformance

NORMALISING = ("bert", "t5")  # built-in tokenizers that change text, such as its case
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


class TokenizerConformance(ProtocolConformance):
    """Subclass it, give the ``name``, and ``metadata`` unless `llamafw.testing.vocabularies` has a vocabulary for it.

    Attributes
    ----------
    metadata : mapping
        The metadata of a model file with a small vocabulary, ``tokenizer.ggml.tokens`` included. It needs tokens for
        any text, and BOS and EOS if the tokenizer has them.
    normalises : bool
        The tokenizer changes text, such as its case or its white space, or has no tokens for rare characters. Then only
        the tokens of decoded text must survive a round trip, where all of its characters have tokens.
    """

    kind = "tokenizer"
    metadata: ClassVar[Mapping[str, Any] | None] = None
    normalises: ClassVar[bool] = False

    def test_special_token_ids_are_valid(self) -> None:
        """`bos`, `eos`, `eog` and `fim` are ids of the vocabulary, and `eos` is one of `eog`."""
        made = self.make()
        assert made.n_vocab > 0, f"n_vocab is {made.n_vocab}"
        named = {"bos": made.bos, "eos": made.eos, **{f"fim[{name!r}]": token for name, token in made.fim.items()}}
        for name, token in named.items():
            in_range = token is None or 0 <= token < made.n_vocab
            assert in_range, f"{name} is {token}, which is not one of the {made.n_vocab} tokens"

        assert all(0 <= token < made.n_vocab for token in made.eog), (
            f"eog is {sorted(made.eog)}, and there are {made.n_vocab} tokens"
        )
        assert made.eos is None or made.eos in made.eog, f"eos is {made.eos}, which is not in eog"
        assert not made.add_bos or made.bos is not None, "add_bos is True but bos is None"
        assert not made.add_eos or made.eos is not None, "add_eos is True but eos is None"

    def test_text_survives_a_round_trip(self) -> None:
        """Decoding the tokens of a text gives the text, or the text after one space.

        If the tokenizer normalises, encoding the decoded text gives the same tokens, unless some were unknown.
        """
        made = self.make()
        normalises = self.normalises or self.name in NORMALISING
        for text in texts():
            tokens = made.encode(text, parse_special=False)
            wrong = [token for token in tokens if not (type(token) is int and 0 <= token < made.n_vocab)]
            assert not wrong, f"{text!r} contains {wrong[0]!r}, which is not one of the {made.n_vocab} tokens"
            decoded = made.decode(tokens)
            if not normalises:
                assert decoded in (text, f" {text}"), f"{text!r} becomes {decoded!r}"
            elif decoded == made.decode(tokens, special=True):  # otherwise, unknown tokens are not in the text
                again = made.encode(decoded, parse_special=False)
                assert again == tokens, f"{text!r} becomes {decoded!r}, which has other tokens"

    def test_pieces_join_to_the_decoded_text(self) -> None:
        """The `piece`s of tokens, joined, are what `decode` returns: servers stream text token by token."""
        made = self.make()
        for text in texts(30):
            tokens = made.encode(text)
            for special in (False, True):
                pieces = [made.piece(token, special=special) for token in tokens]
                assert all(type(piece) is bytes for piece in pieces), f"{text!r}: a piece is not bytes"
                joined = b"".join(pieces).decode("utf-8", "replace")
                decoded = made.decode(tokens, special=special)
                assert joined in (decoded, f" {decoded}"), f"{text!r}: pieces {joined!r}, decode {decoded!r}"

    def test_every_token_has_a_piece(self) -> None:
        """`piece` returns bytes for every token; without ``special`` it is the same or empty."""
        made = self.make()
        for token in range(made.n_vocab):
            piece, special = made.piece(token), made.piece(token, special=True)
            assert type(piece) is bytes, f"piece({token}) is {piece!r}, expected bytes"
            assert piece in (b"", special), f"piece({token}) is {piece!r}, but {special!r} with special=True"

    def test_add_special_adds_bos_and_eos(self) -> None:
        """With ``add_special``, `encode` adds BOS if `add_bos` and EOS if `add_eos`, and nothing else."""
        made = self.make()
        plain, complete = made.encode("Hello"), made.encode("Hello", add_special=True)
        first = [made.bos] if made.add_bos else []
        last = [made.eos] if made.add_eos else []
        assert complete == [*first, *plain, *last], f"'Hello' is {plain}, and {complete} with add_special=True"

    def test_text_cannot_forge_special_tokens(self) -> None:
        """With ``parse_special=False``, used for untrusted text, the name of a special token is plain text."""
        made = self.make()
        for token in made.eog | {token for token in (made.bos, made.eos) if token is not None}:
            name = made.piece(token, special=True).decode("utf-8", "replace")
            if name and made.piece(token) == b"":
                tokens = made.encode(f"a{name}b", parse_special=False)
                assert token not in tokens, f"parse_special=False: the text {name!r} became the special token {token}"
                tokens = made.encode(f"a{name}b", parse_special=True)
                assert token in tokens, f"parse_special=True: {name!r} is {tokens}, without the special token {token}"

    def test_invalid_text_and_tokens_are_request_errors(self) -> None:
        """Lone surrogates and ids outside the vocabulary are a RequestError."""
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
        """Several threads can encode at the same time with the same results."""
        made, some = self.make(), list(texts(40))
        expected = [made.encode(text) for text in some]
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: [made.encode(text) for text in some], range(8)))
        assert results == [expected] * 8, "several threads at once get other tokens than one"

    def test_damaged_metadata_is_a_model_error(self) -> None:
        """Missing or invalid metadata is a ModelError, or has no effect."""
        metadata = self.find_metadata()
        assert metadata, "`metadata` is empty"
        for key in metadata:
            for value in (None, -1, "x", [], ["x", 3], 2**40):
                damaged = {**metadata, key: value}
                if value is None:
                    del damaged[key]
                try:
                    self.registered()(damaged)
                except ModelError:
                    continue
                except Exception as error:
                    what = f"without {key}" if value is None else f"with {key} = {value!r}"
                    raise AssertionError(f"metadata {what} raises {error!r}, not ModelError") from error

    async def test_server_tokenizes_and_generates_with_it(self, serve: Any, write_model: Any) -> None:
        """A server with such a model tokenizes, detokenizes and generates."""
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
            text = (await client.post("/detokenize", json={"tokens": tokens})).json()["content"]
            assert text == made.decode(tokens, special=True), f"POST /detokenize answers {text!r}"

            body = {"prompt": "Hello", "n_predict": 16, "seed": 1, "ignore_eos": True, "return_tokens": True}
            answer = (await client.post("/completion", json=body)).json()
            decoded, content = made.decode(answer["tokens"]), answer["content"]
            assert decoded.startswith(content.rstrip("\ufffd")), f"the tokens of {content!r} decode to {decoded!r}"

    # --- helpers

    def implementations(self, tiny_model: Path) -> Iterator[tuple[type, Any]]:
        """Yield the tokenizer."""
        yield Tokenizer, self.make()

    def find_metadata(self) -> Mapping[str, Any]:
        """Return the metadata to test with."""
        if self.metadata is not None:
            return self.metadata
        if self.name not in vocabularies.BY_TOKENIZER:
            pytest.skip("give the `metadata` of a small vocabulary to test with")
        return vocabularies.BY_TOKENIZER[self.name]()

    def make(self) -> Tokenizer:
        """Create the tokenizer."""
        made: Tokenizer = self.registered()(self.find_metadata())
        return made


def texts(n: int = 200) -> Iterator[str]:
    """Yield texts of many kinds, then ``n`` random ones from a fixed seed."""
    yield from TEXTS
    rng = random.Random(0)
    for _ in range(n):
        yield "".join(rng.choice(ALPHABET) for _ in range(rng.randrange(1, 25)))
