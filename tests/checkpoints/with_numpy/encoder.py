"""What encoders like BERT have in common, in float64, one text at a time."""

from __future__ import annotations

from math import erf

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Arrays = dict[str, Array]


def affine(x: Array, tensors: Arrays, name: str) -> Array:
    """Return the rows multiplied by a matrix, with its bias if it has one."""
    product: Array = x @ tensors[f"{name}.weight"].T
    return product + tensors.get(f"{name}.bias", np.zeros(1))


def normed(x: Array, tensors: Arrays, name: str, eps: float) -> Array:
    """Return the LayerNorm of each row."""
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + eps)
    result: Array = scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]
    return result


def gelu(x: Array) -> Array:
    """Return x times the probability that a standard normal number is smaller."""
    probability: Array = 0.5 * (1 + np.vectorize(erf)(x / 2**0.5))
    result: Array = x * probability
    return result


def softmax(x: Array) -> Array:
    """Return exponentials that add up to 1."""
    e: Array = np.exp(x - x.max(-1, keepdims=True))
    total: Array = e.sum(-1, keepdims=True)
    return e / total


def by_head(x: Array, n_head: int) -> Array:
    """Return rows as ``(n_head, n_tokens, size)``."""
    return x.reshape(len(x), n_head, -1).transpose(1, 0, 2)


def rotated(x: Array, base: float) -> Array:
    """Return heads, ``(n_head, n_tokens, size)``, with their halves as complex numbers turned by the positions."""
    n = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * base ** (-np.arange(n) / n)
    turned = (x[..., :n] + 1j * x[..., n:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], -1)


def attended(q: Array, k: Array, v: Array, bias: Array | float = 0.0) -> Array:
    """Return attention of all tokens to all tokens; arguments are ``(n_head, n_tokens, size)``."""
    scores = q @ k.transpose(0, 2, 1) / q.shape[-1] ** 0.5 + bias
    return (softmax(scores) @ v).transpose(1, 0, 2).reshape(q.shape[1], -1)
