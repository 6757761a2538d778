"""Put units of work in phases, and find memory for the buffers and the places of barriers.

A phase is one kernel call per thread. Operators on rows whose operands are ready are one phase. Buffers that are not in
use at the same time may have the same memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from llamafw_backends.numba_cpu.kernel_records import (
    BATCH_BARRIER,
    GROUPED,
    PRIVATE,
    SELECT_BARRIER,
    SINGLE_BARRIER,
    TRANSIENT,
)
from llamafw_backends.numba_cpu.memory import align_up
from llamafw_backends.numba_cpu.units import (
    Activations,
    AttentionUnit,
    Buffer,
    ColumnsUnit,
    GatherUnit,
    MatrixUnit,
    RowUnit,
    SelectUnit,
    SortUnit,
    Unit,
)

_SLACK = 128  # bytes behind each buffer, because kernels read and write whole vectors


@dataclass(eq=False)
class Phase:
    """Units that one kernel call computes."""

    units: list[Unit]
    barrier: int = 0

    @property
    def stage(self) -> int:
        """The stage of its units."""
        return self.units[0].stage

    @property
    def is_redundant(self) -> bool:
        """Whether each thread computes a single row for itself."""
        return all(isinstance(unit, RowUnit) and not unit.is_shared for unit in self.units)

    def reads(self) -> list[Buffer]:
        """Return the buffers that it reads."""
        return [buffer for unit in self.units for buffer in unit.reads()]

    def writes(self) -> list[Buffer]:
        """Return the buffers that it writes."""
        return [buffer for unit in self.units for buffer in unit.writes()]

    def uses_own_rows(self) -> bool:
        """Return whether its threads find a single row in a buffer of mode PRIVATE in rows of their own."""
        aware = MatrixUnit | ColumnsUnit | AttentionUnit | SortUnit | GatherUnit
        return self.is_redundant or isinstance(self.units[0], aware)


@dataclass(eq=False)
class Schedule:
    """Phases in order, and the size of the memory for their buffers."""

    phases: list[Phase]
    n_bytes: int = 0
    buffers: list[Buffer] = field(default_factory=list)


def schedule(units: Sequence[Unit], n_rows: int, n_threads: int) -> Schedule:
    """Return the phases of some units, which are given in an order in which they can be computed.

    Parameters
    ----------
    units : sequence of Unit
        The work.
    n_rows : int
        Maximum number of tokens in a ubatch.
    n_threads : int
        Number of threads; buffers have at least one row for each.
    """
    phases = _with_selection(_group(units))
    _choose_modes(phases)
    buffers = _find_lives(phases)
    _add_barriers(phases)  # those that are needed even if no buffers share memory
    n_bytes = _place(buffers, _count_barriers(phases), max(n_rows, n_threads), n_threads)
    _add_barriers(phases)
    return Schedule(phases, n_bytes, buffers)


def _group(units: Sequence[Unit]) -> list[Phase]:
    """Return the units in phases: as early as possible, with operators on rows in even levels."""
    level: dict[Unit, int] = {}
    writer: dict[Buffer, Unit] = {}
    readers: dict[Buffer, list[Unit]] = defaultdict(list)
    for unit in units:
        before = [writer[buffer] for buffer in unit.reads() if buffer in writer]
        for buffer in unit.writes():
            before += [*([writer[buffer]] if buffer in writer else []), *readers[buffer]]
        level[unit] = max((_level_after(other, level[other], unit) for other in before), default=int(not _is_row(unit)))

        for buffer in unit.reads():
            readers[buffer].append(unit)
        for buffer in unit.writes():
            writer[buffer], readers[buffer] = unit, []

    grouped: dict[tuple[int, int], list[Unit]] = defaultdict(list)
    for unit in units:
        grouped[unit.stage, level[unit]].append(unit)
    phases = []
    for (_, number), members in sorted(grouped.items(), key=lambda item: item[0]):
        phases += [Phase(members)] if number % 2 == 0 else [Phase([unit]) for unit in members]
    return phases


def _is_row(unit: Unit) -> bool:
    return isinstance(unit, RowUnit) and not unit.is_shared


def _level_after(other: Unit, level: int, unit: Unit) -> int:
    """Return the first level for a unit that comes after another one."""
    if _is_row(unit):
        return level if _is_row(other) else level + 1
    return level + 1 if _is_row(other) else level + 2


def _with_selection(phases: list[Phase]) -> list[Phase]:
    """Insert the phase after which only the rows of the outputs are needed."""
    early = [phase for phase in phases if phase.stage == 0]
    late = [phase for phase in phases if phase.stage == 1]
    if not early:
        return late
    written = {buffer for phase in early for buffer in phase.writes()}
    read = dict.fromkeys(buffer for phase in late for buffer in (*phase.reads(), *phase.writes()))
    return [*early, Phase([SelectUnit([buffer for buffer in read if buffer in written], stage=0)]), *late]


def _choose_modes(phases: list[Phase]) -> None:
    """Choose how rows are found in each buffer."""
    uses: dict[Buffer, set[int]] = defaultdict(set)
    for i, phase in enumerate(phases):
        for buffer in (*phase.reads(), *phase.writes()):
            uses[buffer].add(i)
    for phase in phases:
        for unit in phase.units:
            if isinstance(unit, SortUnit):
                unit.pairs.table.mode, unit.pairs.places.mode = GROUPED, PRIVATE
            if isinstance(unit, GatherUnit):
                unit.out.records.mode = unit.out.floats.mode = GROUPED
            if not isinstance(unit, RowUnit) or unit.is_shared:
                continue
            if isinstance(unit.out, Activations):
                unit.out.records.mode = unit.out.floats.mode = GROUPED
            elif unit.out is not None:
                unit.out.buffer.mode = TRANSIENT if len(uses[unit.out.buffer]) == 1 else PRIVATE


def _find_lives(phases: list[Phase]) -> list[Buffer]:
    """Find the phases between which each buffer is in use; return the buffers in order of their first use."""
    found: dict[Buffer, None] = {}
    for i, phase in enumerate(phases):
        for buffer in (*phase.reads(), *phase.writes()):
            if buffer.first < 0:
                buffer.first = i
            buffer.last = i
            found[buffer] = None
    return list(found)


def _count_barriers(phases: list[Phase]) -> list[int]:
    """Return, for each phase, how many barriers a single token has had before it starts."""
    return list(accumulate(int(bool(phase.barrier & SINGLE_BARRIER)) for phase in phases))


def _place(buffers: Iterable[Buffer], n_barriers: Sequence[int], n_rows: int, n_threads: int) -> int:
    """Give each buffer a place that no other one has at the same time; return the size of the memory.

    Buffers between whose uses there is no barrier have different places, because they would need a barrier more.
    """
    placed: list[Buffer] = []
    for buffer in buffers:
        if not buffer.row_bytes:
            continue
        buffer.n_bytes = align_up(buffer.row_bytes * (n_threads if buffer.mode == TRANSIENT else n_rows) + _SLACK)
        start = 0
        for other in sorted(placed, key=lambda one: one.start):
            if n_barriers[other.last] < n_barriers[buffer.first] or n_barriers[buffer.last] < n_barriers[other.first]:
                continue
            if start + buffer.n_bytes <= other.start:
                break
            start = max(start, other.start + other.n_bytes)
        buffer.start = start
        placed.append(buffer)
    return max((buffer.start + buffer.n_bytes for buffer in placed), default=0)


def _add_barriers(phases: list[Phase]) -> None:
    """Find the phases that must wait for the phases before them."""
    for flag in (BATCH_BARRIER, SINGLE_BARRIER):
        earlier: list[
            tuple[Buffer, bool, bool]
        ] = []  # buffer, whether it is written, whether threads use their own rows
        for phase in phases:
            phase.barrier &= ~flag
            if isinstance(phase.units[0], SelectUnit):
                continue
            own = flag == SINGLE_BARRIER and phase.uses_own_rows()
            accesses = [(buffer, False, own) for buffer in phase.reads()]
            accesses += [(buffer, True, own) for buffer in phase.writes()]
            if any(_conflict(one, other) for one in accesses for other in earlier):
                phase.barrier |= flag
                earlier = []
            earlier += accesses

    for i, phase in enumerate(phases):
        if isinstance(phase.units[0], SelectUnit):
            phase.barrier |= SELECT_BARRIER
            if i + 1 < len(phases):
                phases[i + 1].barrier |= SELECT_BARRIER


def _conflict(a: tuple[Buffer, bool, bool], b: tuple[Buffer, bool, bool]) -> bool:
    """Return whether two accesses to memory by different phases need a barrier between them."""
    one, other = a[0], b[0]
    if not (a[1] or b[1]):
        return False
    if one is other:
        return not (a[2] and b[2] and one.mode in (PRIVATE, GROUPED))
    overlaps = one.start < other.start + other.n_bytes and other.start < one.start + one.n_bytes
    return overlaps and bool(one.n_bytes and other.n_bytes)
