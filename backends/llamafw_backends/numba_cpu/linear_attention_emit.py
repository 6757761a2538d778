"""Emit the functions of linear attention for one head; `linear_attention` describes what they compute.

Their last parameters are literals: ``delta`` (1: the delta rule, 0: decay alone), ``by_channel`` (1: a decay for each
channel of the keys), and the sizes of a head. ``n`` is the number of a token in its block. A decay that all channels
share is stored as a vector, so both kinds of decays are loaded in the same way.
"""

from __future__ import annotations

from numba.extending import register_jitable

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cpu import features
from llamafw_backends.numba_cpu.emit import F32, FLOATS, I64, Builder, Value, address, constant
from llamafw_backends.numba_cpu.recurrence import BLOCK
from llamafw_backends.numba_cpu.simd import specialised

# How many tokens are multiplied with S together; how many vectors of a line of S are multiplied at once with such a
# group, and with a single token. The sums just fit into the registers. The numbers do not change any sum.
GROUP, _GROUP_VECTORS, _ALONE_VECTORS = (4, 2, 8) if "avx512f" in features() else (2, 1, 2)

_STATE_AHEAD = 16384  # bytes of S that are fetched ahead of their use when decoding


@register_jitable  # type: ignore[untyped-decorator]  # numba has no types
def panel_vectors(value_size: int) -> int:
    """Return the number of vectors per line of a panel.

    S is stored as panels of columns, (value_size / columns, key_size, columns): each is a stream of adjacent lines. The
    size of a panel does not depend on the processor, and neither does a saved state.
    """
    return 2 if value_size % 32 == 0 else 1


@register_jitable  # type: ignore[untyped-decorator]  # numba has no types
def vectors_at_once(alone: bool, value_size: int) -> int:
    """Return how many vectors of a line are multiplied at once: a divisor of their number, one or whole panels."""
    n_vectors = value_size // 16
    n = min(_ALONE_VECTORS if alone else _GROUP_VECTORS, n_vectors)
    while n > 1 and (n_vectors % n != 0 or n % panel_vectors(value_size) != 0):
        n -= 1
    return n


@register_jitable  # type: ignore[untyped-decorator]  # numba has no types
def decay_bytes(by_channel: int, key_size: int) -> int:
    """Return the size of a token's decays."""
    return 4 * key_size if by_channel else 64


def _multiply_decays(
    b: Builder, decays: Value, n: int, by_channel: int, key_size: int, c: int
) -> tuple[list[Value], Value]:
    """Emit W_j for each token j before token ``n``, and G, for the channels ``c`` … c + 15."""
    stride, offset = decay_bytes(by_channel, key_size), 4 * c if by_channel else 0
    product, since = emit.load(b, address(b, decays, stride * n + offset), FLOATS), []
    for j in reversed(range(n)):
        since.append(product)
        product = b.fmul(product, emit.load(b, address(b, decays, stride * j + offset), FLOATS))
    return since[::-1], product


def _emit_weigh(b: Builder, values: list[Value], by_channel: int, key_size: int) -> None:
    """Emit W_j·k_j for the tokens of a full block, and G of the block, to ``out``: (BLOCK + 1, key_size) float32."""
    keys, decays, out = values
    last = BLOCK - 1
    for c in range(0, key_size, 16):
        since, total = _multiply_decays(b, decays, last, by_channel, key_size, c)
        key = [emit.load(b, address(b, keys, 4 * (key_size * j + c)), FLOATS) for j in range(BLOCK)]
        weighted = [b.fmul(x, w) for x, w in zip(key, since, strict=False)]
        for j, x in enumerate([*weighted, key[last], total]):
            emit.store(b, x, address(b, out, 4 * (key_size * j + c)))


def _emit_begin(b: Builder, values: list[Value], n: int, delta: int, by_channel: int, key_size: int) -> None:
    """Emit storing the token's key and decay, and its row G·k (delta rule only) and row G·q."""
    q, k, gate, scale, keys, decays, out = values
    factor = emit.load_splat(b, scale, F32)
    for c in range(0, key_size if by_channel else 16, 16):
        log = emit.load(b, address(b, gate, 4 * c), FLOATS) if by_channel else emit.load_splat(b, gate, F32)
        emit.store(b, emit.exp(b, log), address(b, decays, decay_bytes(by_channel, key_size) * n + 4 * c))

    for c in range(0, key_size, 16):
        _, total = _multiply_decays(b, decays, n, by_channel, key_size, c)
        key = emit.load(b, address(b, k, 4 * c), FLOATS)
        emit.store(b, key, address(b, keys, 4 * (key_size * n + c)))
        if delta:
            emit.store(b, b.fmul(key, total), address(b, out, 4 * c))
        query = b.fmul(emit.load(b, address(b, q, 4 * c), FLOATS), factor)
        emit.store(b, b.fmul(query, total), address(b, out, 4 * (key_size * delta + c)))


def _emit_multiply(
    b: Builder,
    values: list[Value],
    full: int,
    alone: int,
    delta: int,
    by_channel: int,
    key_size: int,
    value_size: int,
) -> None:
    """Emit the products of some columns of S with the rows of one token (``alone``), or of `GROUP` tokens.

    With ``full``, S first takes in the full block before: ``weighted`` is what `weigh` writes, ``us`` has its rows u.
    """
    state, weighted, us, rows, out = values
    n_rows = (1 + delta) * (1 if alone else GROUP)
    n_vectors, panel = vectors_at_once(bool(alone and not full), value_size), panel_vectors(value_size)
    places = [64 * (v // panel * panel * key_size + v % panel) for v in range(n_vectors)]

    block = [
        [emit.load(b, address(b, us, 4 * value_size * j + 64 * v), FLOATS) for v in range(n_vectors)]
        for j in range(BLOCK * full)
    ]
    decays = address(b, weighted, 4 * BLOCK * key_size)
    total = emit.load(b, decays, FLOATS) if full and not by_channel else None

    def line(d: Value) -> list[Value]:
        """Return line ``d`` of S after the full block."""
        first = b.add(state, b.mul(d, constant(I64, 64 * panel)))
        vectors = [emit.load(b, address(b, first, place), FLOATS) for place in places]
        if alone:
            for place in places:
                emit.prefetch(b, address(b, first, place + _STATE_AHEAD))
        if not full:
            return vectors

        channel = b.mul(d, constant(I64, 4))
        decay = total or emit.load_splat(b, b.add(decays, channel), F32)
        vectors = [b.fmul(decay, s) for s in vectors]
        for j, u in enumerate(block):
            x = emit.load_splat(b, address(b, b.add(weighted, channel), 4 * key_size * j), F32)
            vectors = [emit.fma(b, x, y, s) for y, s in zip(u, vectors, strict=True)]
        for s, place in zip(vectors, places, strict=True):
            emit.store(b, s, address(b, first, place))
        return vectors

    def multiply(d: Value, vectors: list[Value], sums: list[Value]) -> list[Value]:
        row, new_sums = b.add(rows, b.mul(d, constant(I64, 4))), []
        for r in range(n_rows):
            x = emit.load_splat(b, address(b, row, 4 * key_size * r), F32)
            new_sums += [emit.fma(b, x, s, sums[r * n_vectors + v]) for v, s in enumerate(vectors)]
        return new_sums

    def step(d: Value, carried: list[Value]) -> list[Value]:
        # a line takes long to compute, so it is begun one step before it is needed
        return line(b.add(d, constant(I64, 1))) + multiply(d, carried[:n_vectors], carried[n_vectors:])

    last = constant(I64, key_size - 1)
    start = line(constant(I64, 0)) + [constant(FLOATS, 0.0)] * (n_rows * n_vectors)
    carried = emit.loop(b, last, start, step)
    for i, result in enumerate(multiply(last, carried[:n_vectors], carried[n_vectors:])):
        r, v = divmod(i, n_vectors)
        emit.store(b, result, address(b, out, 4 * value_size * r + 64 * v))


def _emit_finish(
    b: Builder, values: list[Value], n: int, delta: int, by_channel: int, key_size: int, value_size: int
) -> None:
    """Emit the token's row u and output, from the products of S with its rows."""
    q, v, beta, scale, keys, us, decays, products, out = values
    factor = emit.load_splat(b, scale, F32)
    by_key, by_query = [constant(FLOATS, 0.0)] * n, [constant(FLOATS, 0.0)] * (n + 1)
    for c in range(0, key_size, 16):
        since, _ = _multiply_decays(b, decays, n, by_channel, key_size, c)
        key = [emit.load(b, address(b, keys, 4 * (key_size * j + c)), FLOATS) for j in range(n + 1)]
        query = b.fmul(emit.load(b, address(b, q, 4 * c), FLOATS), factor)
        weighted = [b.fmul(x, w) for x, w in zip(key, since, strict=False)]
        if delta:
            by_key = [emit.fma(b, x, key[n], s) for x, s in zip(weighted, by_key, strict=True)]
        by_query = [emit.fma(b, x, query, s) for x, s in zip([*weighted, key[n]], by_query, strict=True)]
    by_key = [emit.splat(b, emit.reduce(b, s, b.fadd)) for s in by_key] if delta else []
    by_query = [emit.splat(b, emit.reduce(b, s, b.fadd)) for s in by_query]

    minus_beta = b.fsub(constant(FLOATS, 0.0), emit.load_splat(b, beta, F32)) if delta else None
    for c in range(0, 4 * value_size, 64):
        earlier = [emit.load(b, address(b, us, 4 * value_size * j + c), FLOATS) for j in range(n)]
        u = emit.load(b, address(b, v, c), FLOATS)
        if delta:
            u = b.fsub(emit.load(b, address(b, products, c), FLOATS), u)
            for w, x in zip(by_key, earlier, strict=True):
                u = emit.fma(b, w, x, u)
            u = b.fmul(minus_beta, u)
        o = emit.load(b, address(b, products, 4 * value_size * delta + c), FLOATS)
        for w, x in zip(by_query, [*earlier, u], strict=True):
            o = emit.fma(b, w, x, o)
        emit.store(b, u, address(b, us, 4 * value_size * n + c))
        emit.store(b, o, address(b, out, c))


weigh = specialised("weigh", 2, 3, _emit_weigh)
begin = specialised("begin", 3, 7, _emit_begin, n_cases=BLOCK)
multiply = specialised("multiply", 6, 5, _emit_multiply)
finish = specialised("finish", 4, 9, _emit_finish, n_cases=BLOCK)
