"""Tables of the cosines and sines of rotary position embeddings (arXiv:2104.09864)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llamafw import Floats
from llamafw import graph as g
from llamafw_backends.numba_cpu.memory import padded_context

CHUNK_POSITIONS = 4096  # computed at once


def has_table(rope: g.Rope) -> bool:
    """Return whether the angles of a rotation depend on the index of a token in its text only."""
    positions = rope.positions
    return positions is g.POSITIONS or (
        isinstance(positions, g.GroupedPositions) and positions.positions is g.POSITIONS
    )


@dataclass(eq=False)
class RotationTable:
    """The cosines and sines of each position."""

    values: Floats

    @property
    def address(self) -> int:
        """Address of the table."""
        return int(self.values.ctypes.data)


class Rotations:
    """The tables that a model needs, for positions up to ``n_ctx - 1``; equal rotations share one."""

    def __init__(self, n_ctx: int) -> None:
        self._n_ctx, self._n_positions = n_ctx, padded_context(n_ctx)
        self._tables: dict[tuple[object, ...], RotationTable] = {}

    def table(self, rope: g.Rope, interleaved: bool) -> RotationTable:
        """Return the table of a rotation, ``(n_positions, 2, n)`` float32, by the index of a token in its text.

        Each index has n cosines, then n sines. For pairs of halves there is one of each per pair; for adjacent pairs
        there is one per number, and the sine of the first number of a pair is negative.
        """
        frequencies, magnitude = self.frequencies(rope.rotation), rope.rotation.magnitude
        grouped = rope.positions if isinstance(rope.positions, g.GroupedPositions) else None
        groups = None if grouped is None else (grouped.factor, grouped.width)
        key = (frequencies.tobytes(), magnitude, groups, interleaved)
        if key not in self._tables:
            self._tables[key] = RotationTable(self._compute(frequencies, magnitude, grouped, interleaved))
        return self._tables[key]

    def frequencies(self, rotation: g.Rotation) -> npt.NDArray[np.float64]:
        """Return the frequencies that a rotation has in this context."""
        return rotation.frequencies_for(self._n_ctx)

    def _compute(
        self,
        frequencies: npt.NDArray[np.float64],
        magnitude: float,
        grouped: g.GroupedPositions | None,
        interleaved: bool,
    ) -> Floats:
        repeats = 2 if interleaved else 1
        table = np.empty((self._n_positions, 2, repeats * len(frequencies)), np.float32)
        for first in range(0, self._n_positions, CHUNK_POSITIONS):
            tokens = np.arange(first, min(first + CHUNK_POSITIONS, self._n_positions))
            positions = tokens if grouped is None else grouped.of(tokens)
            angles = positions[:, None] * frequencies
            for part, function in enumerate((np.cos, np.sin)):
                table[tokens, part] = np.repeat(function(angles) * magnitude, repeats, 1)
        if interleaved:
            table[:, 1, ::2] *= -1
        return table
