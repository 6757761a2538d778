"""The thread tuner finds the fastest number of threads, also when it changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from llamafw_backends.numba_cpu.thread_tuner import ThreadTuner


def simulate(
    tuner: ThreadTuner, now: list[float], seconds: Callable[[int], float], n_tokens: int, n_steps: int
) -> Counter[int]:
    """Run steps that take ``seconds(n_threads)``; return how often each number of threads was chosen."""
    chosen: Counter[int] = Counter()
    for _ in range(n_steps):
        n_threads = tuner.choose(n_tokens)
        now[0] += seconds(n_threads)
        tuner.record(n_tokens, n_threads, seconds(n_threads))
        chosen[n_threads] += 1
    return chosen


@pytest.mark.parametrize("max_threads", [1, 2, 3, 16])
def test_all_threads_are_used_if_that_is_fastest(max_threads: int) -> None:
    now = [0.0]
    tuner = ThreadTuner(max_threads, lambda: now[0])
    chosen = simulate(tuner, now, lambda n: 0.01 / n, 1, 2000)
    assert chosen[max_threads] > 1900
    assert set(chosen) <= {max_threads, max_threads // 2}


def test_fewer_threads_are_used_while_cores_are_busy() -> None:
    now = [0.0]
    tuner = ThreadTuner(2, lambda: now[0])
    simulate(tuner, now, lambda n: 0.005 / n, 8, 500)
    busy = simulate(tuner, now, lambda n: 0.018 if n == 2 else 0.006, 8, 500)
    assert busy[1] > 460
    assert simulate(tuner, now, lambda n: 0.005 / n, 8, 500)[2] > 350
    trials = simulate(tuner, now, lambda n: 0.018 if n == 2 else 0.006, 8, 2000)
    assert trials[2] * 0.012 < 0.04 * 2000 * 0.006  # seconds lost by trials: less than 4 % of the time


def test_step_sizes_are_independent() -> None:
    now = [0.0]
    tuner = ThreadTuner(2, lambda: now[0])
    simulate(tuner, now, lambda n: 0.02 * n, 1, 50)
    assert tuner.choose(1) == 1
    assert simulate(tuner, now, lambda n: 0.02 / n, 16, 50)[2] > 40
    assert simulate(tuner, now, lambda n: 0.02 * n, 1, 50)[1] > 40


def test_new_step_size_begins_with_the_best_of_the_next_smaller() -> None:
    now = [0.0]
    tuner = ThreadTuner(4, lambda: now[0])
    simulate(tuner, now, lambda n: 0.01 / n, 1, 50)
    simulate(tuner, now, lambda n: 0.01 * n, 2, 50)
    assert tuner.choose(64) == 1


def test_neighbours_are_tried_in_turn() -> None:
    """Two of eight threads are fastest.

    The tuner finds this by halving the number.
    """
    now = [0.0]
    tuner = ThreadTuner(8, lambda: now[0])
    chosen = simulate(tuner, now, lambda n: abs(n - 2) * 0.01 + 0.01, 4, 1000)
    assert chosen[2] > 900


def test_single_slow_step_has_no_effect() -> None:
    now = [0.0]
    tuner = ThreadTuner(2, lambda: now[0])
    simulate(tuner, now, lambda n: 0.005 / n, 1, 100)
    tuner.record(1, 2, 0.5)
    assert simulate(tuner, now, lambda n: 0.005 / n, 1, 100)[2] > 90
