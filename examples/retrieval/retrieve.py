"""Answer a question with the texts in a folder: find passages by embeddings, rerank them, and let a model cite them.

    llamafw serve -m chat.gguf --embedding-model embedder.gguf --reranking-model reranker.gguf
    python retrieve.py FOLDER "What do pandas eat?"

Needs httpx and numpy. Vectors are kept in FOLDER/.vectors.npz; only new passages are embedded again. Without a
reranker, the order of the search stays.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

SUFFIXES = (".md", ".rst", ".txt")
PASSAGE_SIZE = 800  # characters; paragraphs are joined up to this size
BATCH = 64  # passages in one request
INSTRUCTIONS = (
    "Answer the question with the passages only, and cite them by their numbers, such as [1]. "
    "If they do not answer it, say so."
)


@dataclass(frozen=True)
class Passage:
    """A part of a file."""

    source: str  # name of the file, and the number of the passage in it
    text: str

    @property
    def key(self) -> str:
        """A hash of the text, under which its vector is kept."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_passages(folder: Path) -> list[Passage]:
    """Return the passages of all texts below a folder."""
    passages = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES):
        for number, text in enumerate(split(path.read_text("utf-8", "replace")), 1):
            passages.append(Passage(f"{path.relative_to(folder)}, passage {number}", text))
    return passages


def split(text: str) -> list[str]:
    """Return the paragraphs of a text, short ones joined, and those that are longer than `PASSAGE_SIZE` cut."""
    passages, current = [], ""
    for paragraph in filter(None, (part.strip() for part in text.split("\n\n"))):
        if current and len(current) + len(paragraph) > PASSAGE_SIZE:
            passages.append(current)
            current = ""
        current = f"{current}\n\n{paragraph}" if current else paragraph
        while len(current) > PASSAGE_SIZE:
            passages.append(current[:PASSAGE_SIZE])
            current = current[PASSAGE_SIZE:]
    return [*passages, current] if current.strip() else passages


def embed(client: httpx.Client, texts: list[str], input_type: str) -> np.ndarray:
    """Return the vectors of texts, (n, n_dimensions) float32, which have the length 1."""
    rows = []
    for start in range(0, len(texts), BATCH):
        body = {"input": texts[start : start + BATCH], "input_type": input_type, "truncate": True}
        rows += [row["embedding"] for row in post(client, "/v1/embeddings", body)["data"]]
    return np.array(rows, np.float32)


def index(client: httpx.Client, folder: Path, passages: list[Passage]) -> np.ndarray:
    """Return the vectors of the passages, (n, n_dimensions); embed those that the folder's file does not have."""
    file = folder / ".vectors.npz"
    model = post(client, "/v1/embeddings", {"input": "name"})["model"]
    known = dict(np.load(file)) if file.exists() else {}
    if known.pop("model", None) != model:  # vectors of different models cannot be compared
        known = {}

    new = list({passage.key: passage for passage in passages if passage.key not in known}.values())
    if new:
        vectors = embed(client, [passage.text for passage in new], "document")
        known |= {passage.key: vector for passage, vector in zip(new, vectors, strict=True)}
        np.savez(file, model=np.array(model), **known)
    return np.array([known[passage.key] for passage in passages])


def search(client: httpx.Client, question: str, passages: list[Passage], vectors: np.ndarray, n: int) -> list[Passage]:
    """Return the ``n`` passages whose vectors are closest to that of the question, best first."""
    (query,) = embed(client, [question], "query")
    return [passages[i] for i in np.argsort(-(vectors @ query), kind="stable")[:n]]


def rerank(client: httpx.Client, question: str, found: list[Passage], n: int) -> list[Passage]:
    """Return the ``n`` passages that answer the question best; the first ones if the server has no reranker."""
    body = {"query": question, "documents": [passage.text for passage in found], "top_n": n, "truncate": True}
    response = client.post("/v1/rerank", json=body)
    if response.status_code == httpx.codes.NOT_IMPLEMENTED:
        return found[:n]
    return [found[row["index"]] for row in checked(response)["results"]]


def answer(client: httpx.Client, question: str, sources: list[Passage], max_tokens: int) -> str:
    """Return the model's answer, which cites the sources by their numbers."""
    listed = "\n\n".join(f"[{number}] {source.text}" for number, source in enumerate(sources, 1))
    messages = [
        {"role": "system", "content": INSTRUCTIONS},
        {"role": "user", "content": f"{listed}\n\nQuestion: {question}"},
    ]
    body = {"messages": messages, "max_tokens": max_tokens, "temperature": 0}
    text: str = post(client, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
    return text.strip()


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a response; end the program with the server's message if it refuses the request."""
    return checked(client.post(path, json=body))


def checked(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON of a response; end the program with the server's message if it is an error."""
    parsed: dict[str, Any] = response.json()
    if response.is_error:
        raise SystemExit(f"{response.request.url}: {parsed['error']['message']}")
    return parsed


def main() -> None:
    """Answer the question of the command line."""
    parser = argparse.ArgumentParser(description="Answer a question with the texts in a folder.")
    parser.add_argument("folder", type=Path, help=f"folder with texts ({', '.join(SUFFIXES)})")
    parser.add_argument("question")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="address of the server (default: %(default)s)")
    parser.add_argument("--found", type=int, default=20, help="passages that the search finds (default: %(default)s)")
    parser.add_argument("--cited", type=int, default=4, help="passages that the model reads (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=256, help="length of the answer (default: %(default)s)")
    args = parser.parse_args()

    passages = read_passages(args.folder)
    if not passages:
        raise SystemExit(f"{args.folder} has no texts")
    try:
        with httpx.Client(base_url=args.url, timeout=600) as client:
            vectors = index(client, args.folder, passages)
            found = search(client, args.question, passages, vectors, args.found)
            sources = rerank(client, args.question, found, args.cited)
            print(answer(client, args.question, sources, args.max_tokens))
    except httpx.TransportError as error:
        raise SystemExit(f"no answer from {args.url}: {error}") from None
    for number, source in enumerate(sources, 1):
        print(f"[{number}] {source.source}")


if __name__ == "__main__":
    main()
