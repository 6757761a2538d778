"""``bert``: WordPiece (Wu et al., arXiv:1609.08144) with BERT's normaliser.

A text is normalised (control characters removed, and for uncased models lower case without accents), and split at white
space, at punctuation and around Chinese characters. A word becomes the longest token that it begins with, then the
longest one that the rest begins with, and so on. If a part has no token, the whole word becomes the unknown token.

Hugging Face's `tokenizers` does this. GGUF writes tokens that begin a word with ``▁``, and others without BERT's
``##``. Special tokens are found by `GgufTokenizer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers import models, normalizers, pre_tokenizers

from llamafw import ModelError
from llamafw_plugins.tokenizers.library_tokenizer import LibraryTokenizer
from llamafw_plugins.tokenizers.metadata_values import PREFIX, read_flag
from llamafw_plugins.tokenizers.tokenizer_json import is_unicode
from llamafw_plugins.tokenizers.vocabulary import UNUSED, Vocabulary, read_vocabulary

_SPACE = "\u2581"  # ▁, the beginning of a word in the texts of tokens
_CONTINUATION = "##"  # how the library marks tokens within a word
_MAX_WORD_LENGTH = 100  # characters; longer words become the unknown token, as in BERT
_OTHER_KEYS = {  # GGUF has had several names for the tokens before and after a text
    "bos_token_id": ("cls_token_id",),
    "eos_token_id": ("seperator_token_id", "separator_token_id"),
}


class BertTokenizer(LibraryTokenizer):
    """A WordPiece tokenizer.

    ``bos`` is ``[CLS]`` and ``eos`` is ``[SEP]``; each text gets both, whatever the metadata say, as in llama.cpp.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        metadata = {**metadata, **_named_tokens(metadata)}
        vocabulary = read_vocabulary(metadata, bos=101, eos=102, unknown=100)
        for flag in ("add_bos_token", "add_eos_token"):
            metadata = {**metadata, f"{PREFIX}{flag}": True}
        super().__init__(metadata, vocabulary, add_bos=True)
        if vocabulary.unknown is None:
            raise ModelError(f"the model has no {PREFIX}unknown_token_id")

        lowercase = read_flag(metadata, "normalizer.lowercase", True)
        strip_accents = read_flag(metadata, "normalizer.strip_accents", lowercase)
        unknown = ""  # no word is empty, so text cannot become this token by its name
        self._library = Library(
            models.WordPiece(
                vocab=_library_ids(vocabulary) | {unknown: vocabulary.unknown},
                unk_token=unknown,
                max_input_chars_per_word=_MAX_WORD_LENGTH,
                continuing_subword_prefix=_CONTINUATION,
            )
        )
        self._library.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=lowercase
        )
        self._library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the words of ``tokens``, separated by spaces."""
        pieces = (self.piece(token, special=special) for token in tokens)
        return b"".join(without_first_space(pieces)).decode("utf-8", "replace")

    def _make_piece(self, text: str, token_type: int) -> bytes:
        return text.replace(_SPACE, " ").encode("utf-8", "surrogateescape")


def without_first_space(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces that are not empty, without the space at the beginning of the first one."""
    visible = filter(None, pieces)
    yield next(visible, b"").removeprefix(b" ")
    yield from visible


def _named_tokens(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tokens before and after a text, by their usual keys, if the metadata name them by others.

    The separator takes precedence over EOS, as in llama.cpp.
    """
    named: dict[str, Any] = {}
    for key, others in _OTHER_KEYS.items():
        present = [metadata[f"{PREFIX}{name}"] for name in others if f"{PREFIX}{name}" in metadata]
        if present and (key == "eos_token_id" or f"{PREFIX}{key}" not in metadata):
            named[f"{PREFIX}{key}"] = present[0]
    return named


def _library_ids(vocabulary: Vocabulary) -> dict[str, int]:
    """Return the tokens of plain text as the library writes them: text → token."""
    return {
        text[1:] if text.startswith(_SPACE) else _CONTINUATION + text: token
        for text, token in vocabulary.ids.items()
        if token not in vocabulary.control and vocabulary.types[token] != UNUSED and is_unicode(text)
    }
