"""A tiny reranker with a WordPiece vocabulary, and the scores that transformers computes for pairs of texts.

``cd tests && python -m support.bert_pairs`` computes them again; it needs torch and transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from checkpoints import all_checkpoints
from checkpoints.folders import write_folder
from llamafw.testing import vocabularies

SCORES = Path(__file__).with_suffix(".json")
QUERY = "hello world"
DOCUMENTS = ("the world", "hello", "Hello, the hello world!", "of and a")


def write_reranker(folder: Path) -> Path:
    """Write the checkpoint ``bert-reranker`` with the files of a WordPiece tokenizer; return ``folder``."""
    (checkpoint,) = [one for one in all_checkpoints() if one.name == "bert-reranker"]
    write_folder(checkpoint, folder)
    (folder / "tokenizer.json").unlink()
    tokens = vocabularies.wordpiece(checkpoint.shapes["token_embd.weight"][0])["tokenizer.ggml.tokens"]
    lines = [
        token if token.startswith("[") else token.removeprefix("▁") if token.startswith("▁") else f"##{token}"
        for token in tokens
    ]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", "utf-8")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def main() -> None:
    """Compute the first score of each pair, with the types that the tokenizer returns and with one type only."""
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    with TemporaryDirectory() as name:
        folder = write_reranker(Path(name))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = BertForSequenceClassification.from_pretrained(folder, dtype=torch.float64).eval()
        found: dict[str, list[float]] = {"scores": [], "scores_of_one_type": []}
        for document in DOCUMENTS:
            pair = tokenizer(QUERY, document, return_tensors="pt")
            assert tokenizer.unk_token_id not in pair["input_ids"]
            of_one_type = {**pair, "token_type_ids": torch.zeros_like(pair["input_ids"])}
            with torch.no_grad():
                for key, inputs in (("scores", pair), ("scores_of_one_type", of_one_type)):
                    found[key].append(float(model(**inputs).logits[0, 0]))
    SCORES.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(found)


if __name__ == "__main__":
    main()
