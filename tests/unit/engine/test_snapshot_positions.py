"""The snapshots that a backend keeps: which are found, and which are removed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamafw import Snapshots


def filled(limit: int, *positions: int) -> Snapshots[str]:
    snapshots = Snapshots[str](limit)
    for position in positions:
        snapshots.add(position, f"state {position}")
    return snapshots


def test_last_snapshot_up_to_a_position_is_found() -> None:
    snapshots = filled(8, 10, 30, 20)
    assert snapshots.positions == [10, 20, 30]
    assert snapshots.last(29) == (20, "state 20")
    assert snapshots.last(30) == (30, "state 30")
    assert snapshots.last(9) is None
    assert list(snapshots) == [(10, "state 10"), (20, "state 20"), (30, "state 30")]


def test_cut_removes_later_snapshots() -> None:
    snapshots = filled(8, 10, 20, 30)
    snapshots.cut(20)
    assert snapshots.positions == [10, 20]
    snapshots.cut(0)
    assert len(snapshots) == 0


def test_new_snapshot_replaces_the_one_at_its_position() -> None:
    snapshots = filled(2, 10, 20)
    snapshots.add(10, "new")
    assert list(snapshots) == [(10, "new"), (20, "state 20")]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 5))
def test_newest_snapshot_is_never_removed(positions: list[int], limit: int) -> None:
    snapshots = Snapshots[int](limit)
    for position in positions:
        snapshots.add(position, position)
        assert position in snapshots.positions
        assert len(snapshots) <= limit
        assert snapshots.positions == sorted(set(snapshots.positions))


def test_gaps_grow_with_the_distance_from_the_end() -> None:
    snapshots = filled(8, *range(100, 100_001, 100))
    distances = [100_000 - position for position in snapshots.positions]
    assert distances[-1] == 0
    gaps = [first - second for first, second in zip(distances, distances[1:], strict=False)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] == 100

    for distance in range(100, 100_000, 100):
        position, _ = snapshots.last(100_000 - distance) or (0, 0)
        assert 100_000 - position <= 5 * distance
