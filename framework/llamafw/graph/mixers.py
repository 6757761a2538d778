"""Blocks that take the place of attention and keep a state of fixed size: Mamba, gated delta net, short convolution.

Independent of architectures, which give the sizes and order of their heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llamafw.graph.builders import activation, concat, conv, flat, heads, linear, rms_norm, split
from llamafw.graph.metadata import Metadata
from llamafw.graph.recurrent import LinearAttention, SelectiveScan
from llamafw.graph.rows import L2Norm, WeightAdd, WeightMul
from llamafw.graph.shapes import Repeat
from llamafw.graph.values import Value
from llamafw.graph.weights import Parameters

_L2_EPS = 1e-6  # part of the delta rule, independent of the model's other norms


class StateSizes(NamedTuple):
    """Sizes of the state of Mamba-2 and gated delta nets: a matrix ``(n_state, size)`` per head."""

    n_head: int  # of the values
    size: int  # of one head of values
    n_group: int  # heads of keys and queries, each for several heads of values
    n_state: int  # size of one key
    kernel: int  # how many tokens the convolution sees

    @property
    def n_inner(self) -> int:
        """The size of all values together."""
        return self.n_head * self.size

    @property
    def n_keys(self) -> int:
        """The size of all keys together."""
        return self.n_group * self.n_state


def state_sizes(m: Metadata) -> StateSizes:
    """Return the sizes that a model's metadata give in ``ssm.*``; ModelError if they do not fit together."""
    n_head, n_group, n_inner, n_state, kernel = (
        m.integer(f"ssm.{key}") for key in ("time_step_rank", "group_count", "inner_size", "state_size", "conv_kernel")
    )
    if n_inner % n_head:
        m.fail("ssm.inner_size", f"is {n_inner}, which cannot be divided into {n_head} heads")
    if n_head % n_group:
        m.fail("ssm.group_count", f"is {n_group}, which does not fit {n_head} heads")
    return StateSizes(n_head, n_inner // n_head, n_group, n_state, kernel)


def gated_delta_net(x: Value, layer: Parameters, sizes: StateSizes, eps: float, *, tiled: bool) -> Value:
    """Return a gated delta net (arXiv:2412.06464), as in Qwen3-Next and Qwen3.5.

    Queries, keys and values go through a short convolution. Queries and keys have length 1; each head's state decays
    by ``exp(A · softplus(α + Δ))`` and learns the value with the rate ``σ(β)``. The output is normalised per head and
    multiplied by ``silu(z)``.

    Parameters
    ----------
    x : Value
        The input, ``(n_embd,)``.
    layer : Parameters
        The layer's parameters: ``attn_qkv``, ``attn_gate`` (z), ``ssm_conv1d``, ``ssm_beta``, ``ssm_alpha``,
        ``ssm_dt.bias`` (Δ), ``ssm_a`` (A, negative), ``ssm_norm``, ``ssm_out``. A file may have ``ssm_in`` instead of
        the first two, and ``ssm_ba`` instead of β and α; their rows are in the order of the groups.
    sizes : StateSizes
        Sizes of the heads.
    eps : float
        Of the norm of the output.
    tiled : bool
        Which keys a head ``h`` of the values has: those of group ``h mod n_group`` if true, otherwise consecutive
        heads share a group.
    """
    qkv, z = _qkv_and_z(x, layer, sizes)
    mixed = activation(conv(qkv, layer.of_shape("ssm_conv1d", qkv.shape[0], sizes.kernel)), "silu")
    q, k, v = split(mixed, sizes.n_keys, sizes.n_keys, sizes.n_inner)

    times = sizes.n_head // sizes.n_group
    q, k = (Repeat(L2Norm(heads(part, sizes.n_group), _L2_EPS), times, tiled) for part in (q, k))
    beta, alpha = _beta_and_alpha(x, layer, sizes)
    step = activation(WeightAdd(alpha, layer.tensor("ssm_dt.bias", sizes.n_head)), "softplus")
    y = LinearAttention(
        q,
        k,
        heads(v, sizes.n_head),
        WeightMul(step, layer.tensor("ssm_a", sizes.n_head)),
        "delta",
        activation(beta, "sigmoid"),
        sizes.n_state**-0.5,
    )
    return linear(flat(rms_norm(y, layer["ssm_norm"], eps)) * activation(z, "silu"), layer["ssm_out"])


class ScanSizes(NamedTuple):
    """Sizes of Mamba-1, whose state has ``n_state`` numbers per channel."""

    n_inner: int  # channels
    n_state: int
    n_rank: int  # numbers from which the steps of all channels are computed
    kernel: int  # how many tokens the convolution sees


def scan_sizes(m: Metadata) -> ScanSizes:
    """Return the sizes of Mamba-1 that a model's metadata give in ``ssm.*``."""
    return ScanSizes(
        *(m.integer(f"ssm.{key}") for key in ("inner_size", "state_size", "time_step_rank", "conv_kernel"))
    )


def mamba(x: Value, layer: Parameters, sizes: ScanSizes, norm: Callable[[Value, str], Value] | None = None) -> Value:
    """Return a Mamba-1 block (arXiv:2312.00752).

    With ``Δ = softplus(W δ + bias)`` per channel, a state decays by ``exp(A Δ)``, learns ``Δ x`` for the key ``B``, and
    is read with the query ``C``; the input itself is added with the factor ``D``. The output is multiplied by
    ``silu(z)``.

    Parameters
    ----------
    x : Value
        The input, ``(n_embd,)``.
    layer : Parameters
        The layer's parameters: ``ssm_in`` (x and z), ``ssm_conv1d``, ``ssm_x`` (δ, B and C), ``ssm_dt`` (W and bias),
        ``ssm_a`` (negative), ``ssm_d``, ``ssm_out``.
    sizes : ScanSizes
        Sizes of the block.
    norm : callable, optional
        Normalises δ, B and C, given with their names: ``dt``, ``b`` and ``c`` (Jamba, arXiv:2403.19887).
    """
    mixed, z = split(linear(x, layer.of_shape("ssm_in", 2 * sizes.n_inner, x.shape[-1])), *[sizes.n_inner] * 2)
    mixed = activation(conv(mixed, layer.of_shape("ssm_conv1d", sizes.n_inner, sizes.kernel)), "silu")

    inputs = layer.of_shape("ssm_x", sizes.n_rank + 2 * sizes.n_state, sizes.n_inner)
    parts = split(linear(mixed, inputs), sizes.n_rank, sizes.n_state, sizes.n_state)
    if norm:
        parts = [norm(part, name) for part, name in zip(parts, ("dt", "b", "c"), strict=True)]
    rank, b, c = parts
    layer.tensor("ssm_dt.bias", sizes.n_inner)
    step = activation(linear(rank, layer.of_shape("ssm_dt", sizes.n_inner, sizes.n_rank)), "softplus")

    a, d = layer.tensor("ssm_a", sizes.n_inner, sizes.n_state), layer.tensor("ssm_d", sizes.n_inner)
    return linear(SelectiveScan(mixed, step, b, c, a, d) * activation(z, "silu"), layer["ssm_out"])


def mamba2(x: Value, layer: Parameters, sizes: StateSizes, eps: float, *, has_norm: bool = True) -> Value:
    """Return a Mamba-2 block (arXiv:2405.21060).

    With ``Δ = softplus(δ + bias)`` per head, a state decays by ``exp(A Δ)``, learns ``Δ x`` for the key ``B``, and is
    read with the query ``C``; the input itself is added with the factor ``D``. The output is multiplied by
    ``silu(z)`` and normalised per group.

    Parameters
    ----------
    x : Value
        The input, ``(n_embd,)``.
    layer : Parameters
        The layer's parameters: ``ssm_in`` (z, x, B, C and δ), ``ssm_conv1d``, ``ssm_dt.bias``, ``ssm_a`` (negative),
        ``ssm_d``, ``ssm_norm``, ``ssm_out``.
    sizes : StateSizes
        Sizes of the heads.
    eps : float
        Of the norm.
    has_norm : bool
        Whether the output is normalised, with ``ssm_norm``.
    """
    n_conv = sizes.n_inner + 2 * sizes.n_keys
    inputs = layer.of_shape("ssm_in", sizes.n_inner + n_conv + sizes.n_head, x.shape[-1])
    z, mixed, step = split(linear(x, inputs), sizes.n_inner, n_conv, sizes.n_head)
    mixed = activation(conv(mixed, layer.of_shape("ssm_conv1d", n_conv, sizes.kernel)), "silu")
    values, k, q = split(mixed, sizes.n_inner, sizes.n_keys, sizes.n_keys)

    values = heads(values, sizes.n_head)
    k, q = (Repeat(heads(part, sizes.n_group), sizes.n_head // sizes.n_group) for part in (k, q))
    step = heads(activation(WeightAdd(step, layer.tensor("ssm_dt.bias", sizes.n_head)), "softplus"), sizes.n_head)
    y: Value = LinearAttention(q, k, values * step, WeightMul(step, layer.tensor("ssm_a", sizes.n_head, 1)), "decay")
    y = flat(y + WeightMul(values, layer.tensor("ssm_d", sizes.n_head, 1))) * activation(z, "silu")
    if has_norm:
        norm = layer.of_shape("ssm_norm", sizes.n_group, sizes.n_inner // sizes.n_group)
        y = flat(rms_norm(heads(y, sizes.n_group), norm, eps))
    return linear(y, layer["ssm_out"])


def short_convolution(x: Value, layer: Parameters, kernel: int) -> Value:
    """Return the block of LFM2: ``out (c · conv(b · x))``, where ``b``, ``c`` and ``x`` are products of the input.

    Parameters
    ----------
    x : Value
        The input, ``(n_embd,)``.
    layer : Parameters
        The layer's parameters: ``shortconv.in_proj``, ``shortconv.conv`` and ``shortconv.out_proj``.
    kernel : int
        How many tokens the convolution sees.
    """
    n_embd = x.shape[-1]
    b, c, values = split(linear(x, layer.of_shape("shortconv.in_proj", 3 * n_embd, n_embd)), *[n_embd] * 3)
    return linear(c * conv(b * values, layer.of_shape("shortconv.conv", n_embd, kernel)), layer["shortconv.out_proj"])


def _qkv_and_z(x: Value, layer: Parameters, sizes: StateSizes) -> tuple[Value, Value]:
    """Return the inputs of the convolution and of the output's gate, ``(2 n_keys + n_inner,)`` and ``(n_inner,)``."""
    n_embd, n_qkv = x.shape[-1], 2 * sizes.n_keys + sizes.n_inner
    if "ssm_in" not in layer:
        qkv = linear(x, layer.of_shape("attn_qkv", n_qkv, n_embd))
        return qkv, linear(x, layer.of_shape("attn_gate", sizes.n_inner, n_embd))

    fused = linear(x, layer.of_shape("ssm_in", n_qkv + sizes.n_inner, n_embd))
    n_values = sizes.n_inner // sizes.n_group
    parts = split(heads(fused, sizes.n_group), sizes.n_state, sizes.n_state, n_values, n_values)
    q, k, v, z = (flat(part) for part in parts)
    return concat(q, k, v), z


def _beta_and_alpha(x: Value, layer: Parameters, sizes: StateSizes) -> tuple[Value, Value]:
    """Return the numbers from which rate and decay of each head are computed, ``(n_head,)`` each."""
    if "ssm_ba" not in layer:
        return linear(x, layer["ssm_beta"]), linear(x, layer["ssm_alpha"])

    fused = linear(x, layer.of_shape("ssm_ba", 2 * sizes.n_head, x.shape[-1]))
    times = sizes.n_head // sizes.n_group
    beta, alpha = (flat(part) for part in split(heads(fused, sizes.n_group), times, times))
    return beta, alpha
