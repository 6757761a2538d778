"""``gemma4``: BPE (Sennrich et al., arXiv:1508.07909) over characters, with byte fallback, as in Gemma 4.

Spaces become ``▁``. Merges have priorities of their own and can cross words. Characters without a token become byte
tokens. Hugging Face's `tokenizers` does the merging; special tokens are found by `GgufTokenizer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers

from llamafw_plugins.tokenizers.gguf_tokenizer import GgufTokenizer, parse_byte_token
from llamafw_plugins.tokenizers.gpt2 import read_merges
from llamafw_plugins.tokenizers.library_tokenizer import BpeTokenizer
from llamafw_plugins.tokenizers.vocabulary import BYTE, NORMAL, read_vocabulary

_SPACE = "\u2581"  # ▁, the space in the texts of tokens


class Gemma4Tokenizer(BpeTokenizer):
    """A BPE tokenizer of characters with byte fallback.

    If two tokens have the same text, as in some files by Google, text is encoded with the second one.
    """

    _decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        vocabulary = read_vocabulary(metadata, bos=2, eos=1, unknown=3, may_repeat=True)
        GgufTokenizer.__init__(self, metadata, vocabulary, add_bos=True)
        ids = {text: token for text, token in vocabulary.ids.items() if token not in vocabulary.control}
        merges = read_merges(metadata, vocabulary, ids)
        unknown = {} if vocabulary.unknown is None else {vocabulary.texts[vocabulary.unknown]: vocabulary.unknown}
        self._library = Library(
            models.BPE(
                vocab=ids | unknown,
                merges=merges,
                unk_token=next(iter(unknown), None),
                fuse_unk=True,
                byte_fallback=True,
            )
        )
        self._library.normalizer = normalizers.Replace(" ", _SPACE)

    def _make_piece(self, text: str, token_type: int) -> bytes:
        if token_type == NORMAL:
            return text.replace(_SPACE, " ").encode("utf-8", "surrogateescape")
        return parse_byte_token(text) if token_type == BYTE else b""
