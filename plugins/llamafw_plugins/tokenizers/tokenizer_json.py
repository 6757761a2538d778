"""Writes a tokenizer as a ``tokenizer.json``, which Hugging Face's `tokenizers` loads.

Independent of the merging, which the library does.
"""

from __future__ import annotations

import json
from collections.abc import Set
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers import processors

from llamafw_plugins.tokenizers.vocabulary import Vocabulary


def tokenizer_json(
    library: Library,
    vocabulary: Vocabulary,
    decoder: Any,
    *,
    strip_left: Set[int],
    strip_right: Set[int],
    first: int | None,
    last: int | None,
) -> str:
    """Return the contents of the file.

    Parameters
    ----------
    library : Library
        The tokenizer of plain text.
    vocabulary : Vocabulary
        All tokens; those that `library` does not know are found as special tokens.
    decoder : tokenizers.decoders.Decoder
        Turns the texts of tokens into text.
    strip_left, strip_right : set of int
        Special tokens that remove the white space before or after them.
    first, last : int, optional
        The tokens that are added to each text.
    """
    data = json.loads(library.to_str())
    data["model"]["vocab"] = {text: token for text, token in vocabulary.ids.items() if is_unicode(text)}
    if not data["model"]["unk_token"]:
        data["model"]["unk_token"] = None
    data["added_tokens"] = [
        {
            "id": token,
            "content": vocabulary.texts[token],
            "single_word": False,
            "lstrip": token in strip_left,
            "rstrip": token in strip_right,
            "normalized": False,
            "special": token in vocabulary.control,
        }
        for token in sorted(vocabulary.control | vocabulary.user_defined)
        if vocabulary.texts[token]
    ]
    whole = Library.from_str(json.dumps(data))
    whole.decoder = decoder
    if first is not None or last is not None:
        names = {token: vocabulary.texts[token] for token in (first, last) if token is not None}
        parts = ["" if first is None else names[first], "$A", "" if last is None else names[last]]
        whole.post_processor = processors.TemplateProcessing(
            single=list(filter(None, parts)), special_tokens=[(text, token) for token, text in names.items()]
        )
    text: str = whole.to_str(pretty=True)
    return text


def is_unicode(text: str) -> bool:
    """Return whether a text has no lone surrogates, which stand for bytes that are not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
