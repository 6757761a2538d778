"""Find the type of tensors by its number in a file.

A number has had another meaning in older files if a tensor type lists it in its attribute ``old_type_ids``. The sizes
of the tensors tell which meaning a file has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from llamafw.interfaces import Quant

QuantsById = Mapping[int, Sequence[Quant]]
"""What a number means: the type that has it as ``type_id``, if there is one, and then those that had it before."""


def quants_by_id(quants: Iterable[Quant]) -> QuantsById:
    """Return the types for each number."""
    found: dict[int, list[Quant]] = {}
    for quant in quants:
        found.setdefault(quant.type_id, []).insert(0, quant)
        for type_id in getattr(quant, "old_type_ids", ()):
            found.setdefault(type_id, []).append(quant)
    return found


def choose_quant(quants: Sequence[Quant], spans: Sequence[tuple[Sequence[int], int]], alignment: int) -> Quant:
    """Return the type of tensors that have the same number.

    That is the first one, unless its tensors would overlap, and those of another type would not, and leave no gap.

    Parameters
    ----------
    quants : sequence of Quant
        What the number means, as in `QuantsById`.
    spans : sequence of (shape, int)
        The shape of each tensor, outermost dimension first, and the bytes from its start to that of the next tensor.
    alignment : int
        Alignment of tensors in bytes.
    """

    def sizes(quant: Quant) -> Iterator[tuple[float, int]]:
        for shape, span in spans:
            size = byte_size(shape, quant)
            yield math.inf if size is None else size, span

    if all(size <= span for size, span in sizes(quants[0])):
        return quants[0]
    for quant in quants[1:]:  # the file may end with its last tensor, or with what aligns it
        if all(span in (size, -(-size // alignment) * alignment) for size, span in sizes(quant)):
            return quant
    return quants[0]


def byte_size(shape: Sequence[int], quant: Quant) -> int | None:
    """Return the size of a tensor, outermost dimension first, in bytes; None if its rows are not whole blocks."""
    if (shape[-1] if shape else 1) % quant.block_size:
        return None
    return math.prod(shape) // quant.block_size * quant.type_size
