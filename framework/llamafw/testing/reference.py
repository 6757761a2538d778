"""The Llama forward pass in float64 numpy: slow, simple, and the reference that backends are compared with.

It shares no code with the rest of llamafw: the `gguf` package reads the file and dequantises the weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader
from gguf.quants import dequantize

Array = npt.NDArray[np.float64]

_USED_TENSORS = re.compile(
    r"token_embd\.weight|output_norm\.weight|output\.(weight|bias)|rope_freqs\.weight"
    r"|blk\.\d+\.(attn_norm|ffn_norm)\.weight"
    r"|blk\.\d+\.(attn_q|attn_k|attn_v|attn_output|ffn_gate|ffn_up|ffn_down)\.(weight|bias)"
)
_UNRELATED_TENSORS = re.compile(r"cls(\.output)?\.(weight|bias)|blk\.\d+\.attn_rot_embd\.weight")
"""The head of a reranker, which scores the hidden states; frequencies that follow from the metadata."""


class Reference:
    """A Llama model, evaluated in float64.

    Parameters
    ----------
    path : Path
        A GGUF file whose ``general.architecture`` is ``llama``.
    frequencies : (n_rot // 2,) array, optional
        Rotary frequencies in radians per position. Required for YaRN; otherwise computed from the metadata.
    magnitude : float
        Factor on the rotary cosines and sines.

    Raises
    ------
    ValueError
        The file has a tensor that this forward pass would ignore.
    """

    def __init__(self, path: Path, frequencies: Array | None = None, magnitude: float = 1.0) -> None:
        reader = GGUFReader(path)
        self._fields = {key: field for key, field in reader.fields.items() if key.startswith("llama.")}
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        for name in self._tensors:
            if not _USED_TENSORS.fullmatch(name) and not _UNRELATED_TENSORS.fullmatch(name):
                raise ValueError(f"{path}: the reference does not use the tensor {name!r}")
        self._weights: dict[str, npt.NDArray[np.float32]] = {}

        self.n_layer = int(self._key("block_count"))
        self.n_head = int(self._key("attention.head_count"))
        self.n_head_kv = int(self._key("attention.head_count_kv", self.n_head))
        self.n_embd = int(self._key("embedding_length"))
        self.n_embd_head = int(self._key("attention.key_length", self.n_embd // self.n_head))
        self.eps = float(self._key("attention.layer_norm_rms_epsilon"))
        self.frequencies = self._frequencies() if frequencies is None else frequencies
        self.magnitude = magnitude
        self.n_vocab = len(self.weight("token_embd.weight"))

    def logits(self, tokens: Sequence[int], positions: npt.NDArray[np.int64] | None = None) -> Array:
        """Return the logits after each of ``tokens``, ``(n, n_vocab)`` float64; ``positions`` are those of `hidden`."""
        x = self.hidden(tokens, positions)
        output = "output.weight" if "output.weight" in self._tensors else "token_embd.weight"
        return self._linear(x, output)

    def hidden(self, tokens: Sequence[int], positions: npt.NDArray[np.int64] | None = None) -> Array:
        """Return the hidden states after the output norm, ``(n, n_embd)`` float64.

        Parameters
        ----------
        tokens : sequence of int
            The tokens, ``(n,)``.
        positions : (n, n) int64, optional
            For each token, the positions that it sees the others at, and its own. By default they are 0, 1, …
        """
        x = self.weight("token_embd.weight")[np.asarray(tokens)].astype(np.float64)
        places = np.arange(len(tokens)) if positions is None else positions
        angles: Array = np.multiply.outer(places, self.frequencies)  # (n, n_rot // 2), or (n, n, n_rot // 2)
        rotation: npt.NDArray[np.complex128] = self.magnitude * np.exp(1j * angles)

        for layer in range(self.n_layer):
            blk = f"blk.{layer}"
            x = x + self._attention(self._norm(x, f"{blk}.attn_norm"), blk, rotation)
            h = self._norm(x, f"{blk}.ffn_norm")
            gate = self._linear(h, f"{blk}.ffn_gate.weight")
            with np.errstate(over="ignore"):
                gate = gate / (1 + np.exp(-gate))
            x = x + self._linear(gate * self._linear(h, f"{blk}.ffn_up.weight"), f"{blk}.ffn_down.weight")

        return self._norm(x, "output_norm")

    def greedy(self, tokens: Sequence[int], n: int) -> list[int]:
        """Return the ``n`` tokens that greedy decoding appends to ``tokens``."""
        row = list(tokens)
        for _ in range(n):
            row.append(int(self.logits(row)[-1].argmax()))
        return row[len(tokens) :]

    def cached(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Return keys and values, ``(n, n_head_kv, n_embd_head)``, as they are cached; a subclass may round them."""
        return k, v

    def weight(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as float32 in numpy's order of dimensions, the reverse of the file's."""
        if name not in self._weights:
            tensor = self._tensors[name]
            shape = tuple(int(size) for size in reversed(tensor.shape))
            self._weights[name] = dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        return self._weights[name]

    def _attention(self, h: Array, blk: str, rotation: npt.NDArray[np.complex128]) -> Array:
        n, size = len(h), self.n_embd_head
        own = rotation if rotation.ndim == 2 else rotation[range(n), range(n)]
        q = _rotate(self._linear(h, f"{blk}.attn_q.weight").reshape(n, self.n_head, size), own)
        k = _rotate(self._linear(h, f"{blk}.attn_k.weight").reshape(n, self.n_head_kv, size), rotation)
        v = self._linear(h, f"{blk}.attn_v.weight").reshape(n, self.n_head_kv, size)
        k, v = self.cached(k, v)

        shared = self.n_head // self.n_head_kv  # query heads per KV head
        future = np.triu(np.full((n, n), -np.inf), 1)
        mixed = np.empty((n, self.n_head, size))
        for head in range(self.n_head):
            products = np.einsum("qs,ks->qk" if k.ndim == 3 else "qs,qks->qk", q[:, head], k[..., head // shared, :])
            scores = products / np.sqrt(size) + future
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed[:, head] = weights / weights.sum(axis=1, keepdims=True) @ v[:, head // shared]
        return self._linear(mixed.reshape(n, -1), f"{blk}.attn_output.weight")

    def _linear(self, x: Array, name: str) -> Array:
        y: Array = x @ self.weight(name).T.astype(np.float64)
        bias = name.replace(".weight", ".bias")
        return y + self.weight(bias) if bias in self._tensors else y

    def _norm(self, x: Array, name: str) -> Array:
        y: Array = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps) * self.weight(f"{name}.weight")
        return y

    def _frequencies(self) -> Array:
        n_rot = int(self._key("rope.dimension_count", self.n_embd_head))
        frequencies = float(self._key("rope.freq_base", 10_000.0)) ** (-np.arange(0, n_rot, 2) / n_rot)
        if "rope_freqs.weight" in self._tensors:
            frequencies = frequencies / self.weight("rope_freqs.weight").astype(np.float64)
        kind = self._key("rope.scaling.type", "linear")
        if kind not in ("none", "linear"):
            raise ValueError(f"rope scaling {kind!r} needs the argument `frequencies`")
        return frequencies if kind == "none" else frequencies / float(self._key("rope.scaling.factor", 1.0))

    def _key(self, key: str, default: Any = None) -> Any:
        field = self._fields.get(f"llama.{key}")
        if field is None and default is None:
            raise KeyError(key)
        return default if field is None else field.contents()


def _rotate(x: Array, rotation: npt.NDArray[np.complex128]) -> Array:
    """Rotate the adjacent pairs of ``x``, ``(n, n_head, n_embd_head)``, as complex numbers; for each query, or once."""
    rotated = x.view(np.complex128) * rotation[..., None, :]
    return rotated.view(np.float64)


@lru_cache(maxsize=1)
def reference(path: Path) -> Reference:
    """Return the `Reference` of a model.

    The last one is cached, because opening the default model takes seconds.
    """
    return Reference(path)


def kl(p_logits: npt.NDArray[np.floating], q_logits: npt.NDArray[np.floating]) -> float:
    """Return KL(p ‖ q) in nats, averaged over rows; p is the reference."""
    p, q = _log_softmax(p_logits), _log_softmax(q_logits)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def top1_agreement(p_logits: npt.NDArray[np.floating], q_logits: npt.NDArray[np.floating]) -> float:
    """Return the fraction of rows whose most likely token is the same."""
    return float((p_logits.argmax(axis=-1) == q_logits.argmax(axis=-1)).mean())


def _log_softmax(logits: npt.NDArray[np.floating]) -> Array:
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    shifted: Array = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return shifted
