"""The number of threads follows what steps take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from llamafw_backends.numba_cpu.pace import Pace


def simulate(
    pace: Pace, now: list[float], seconds: Callable[[int], float], n_tokens: int, n_steps: int
) -> Counter[int]:
    """Run steps that take what ``seconds`` says of a number of threads; return how often each was chosen."""
    chosen: Counter[int] = Counter()
    for _ in range(n_steps):
        n_threads = pace.choose(n_tokens)
        now[0] += seconds(n_threads)
        pace.record(n_tokens, n_threads, seconds(n_threads))
        chosen[n_threads] += 1
    return chosen


@pytest.mark.parametrize("most", [1, 2, 3, 16])
def test_all_threads_when_they_help(most: int) -> None:
    now = [0.0]
    pace = Pace(most, lambda: now[0])
    chosen = simulate(pace, now, lambda n: 0.01 / n, 1, 2000)
    assert chosen[most] > 1900
    assert set(chosen) <= {most, most // 2}


def test_fewer_when_others_want_the_cores_and_back() -> None:
    now = [0.0]
    pace = Pace(2, lambda: now[0])
    simulate(pace, now, lambda n: 0.005 / n, 8, 500)
    crowded = simulate(pace, now, lambda n: 0.018 if n == 2 else 0.006, 8, 500)
    assert crowded[1] > 460
    assert simulate(pace, now, lambda n: 0.005 / n, 8, 500)[2] > 350
    trials = simulate(pace, now, lambda n: 0.018 if n == 2 else 0.006, 8, 2000)
    assert trials[2] * 0.012 < 0.04 * 2000 * 0.006  # what trials cost


def test_sizes_are_apart() -> None:
    now = [0.0]
    pace = Pace(2, lambda: now[0])
    simulate(pace, now, lambda n: 0.02 * n, 1, 50)
    assert pace.choose(1) == 1
    assert pace.choose(16) == 2


def test_one_step_at_a_time_is_tried() -> None:
    """Eight threads, of which two are best: found by halving."""
    now = [0.0]
    pace = Pace(8, lambda: now[0])
    chosen = simulate(pace, now, lambda n: abs(n - 2) * 0.01 + 0.01, 4, 1000)
    assert chosen[2] > 900


def test_a_single_slow_step_changes_nothing() -> None:
    now = [0.0]
    pace = Pace(2, lambda: now[0])
    simulate(pace, now, lambda n: 0.005 / n, 1, 100)
    pace.record(1, 2, 0.5)
    assert simulate(pace, now, lambda n: 0.005 / n, 1, 100)[2] > 90
