"""Trains a small unigram model with `sentencepiece`, and writes it and its tokens of some texts to sentencepiece.json.

Not a test. Run it with ``pip install sentencepiece==0.2.*``, from any folder: ``python make_sentencepiece.py``.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

HERE = Path(__file__).parent
RULES = {  # from normal form KC: text → replacement
    "\uff21": "A", "\uff41": "a", "\ufb01": "fi", "\u3000": " ", "\t": " ", "\n": " ", "\u2026": "...", "\xbd": "1/2",
    "e\u0301": "\xe9", "a\u0308": "\xe4", "\u30ab\u3099": "\u30ac", "\xa0": " ",
}  # fmt: skip
TEXTS = [
    "", " ", "Hello world", "  Hello   world  ", "a\tb\nc",
    "the \ufb01rst \uff21\uff41 word\u2026", "caf\xe9 cafe\u0301",
    "unknown \u4e16\u754c \U0001f600\U0001f600 signs", "\xbd of it", "a\u0308b", "\u30ab\u3099", "x" * 60,
    "\xa0\u3000a\u3000", "the server answers requests of clients, and the model has tokens",
    "tokenizers tokenize; untokenizable", "1 22 333 4444",
]  # fmt: skip


def train() -> bytes:
    """Return a model that is trained with the text of the manual."""
    rules = HERE / "rules.tsv"
    rules.write_text(
        "".join(
            f"{' '.join(f'{ord(c):X}' for c in text)}\t{' '.join(f'{ord(c):X}' for c in to)}\n"
            for text, to in RULES.items()
        )
    )
    pages = sorted((HERE.parents[2] / "docs" / "plugins").glob("*.md"))
    lines = [line for page in pages for line in page.read_text().splitlines() if line.strip()]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="unigram",
        vocab_size=300,
        character_coverage=0.999,
        normalization_rule_tsv=str(rules),
        num_threads=1,
        minloglevel=2,
    )
    rules.unlink()
    return model.getvalue()


def main() -> None:
    """Write the file."""
    data = train()
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made when it is imported
    model.ParseFromString(data)
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    content = {
        "tokens": [piece.piece for piece in model.pieces],
        "scores": [piece.score for piece in model.pieces],
        "types": [piece.type for piece in model.pieces],
        "charsmap": base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode(),
        "vectors": [[text, processor.encode(text)] for text in TEXTS],
    }
    (HERE / "sentencepiece.json").write_text(json.dumps(content, ensure_ascii=True, indent=None) + "\n")


if __name__ == "__main__":
    main()
