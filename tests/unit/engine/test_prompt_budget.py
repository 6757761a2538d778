"""How much longer responses wait for their tokens while prompts are evaluated, on a simulated clock."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafw.engine.prompt_budget import PromptBudget
from llamafw.engine.scheduler import BatchPart
from support.simulated_engine import SimulatedEngine, SimulatedTask, StepCost


def machine(start: float, per_token: float, per_position: float = 0.0, *, overlaps: bool = False) -> StepCost:
    """Return the durations of steps on a machine.

    Parameters
    ----------
    start : float
        Seconds of any step, for reading the weights.
    per_token : float
        Seconds for each token.
    per_position : float
        Seconds for each token and each position before it, for attention.
    overlaps : bool
        Weights are read while tokens are computed: the longer one counts.
    """

    def cost(parts: Sequence[BatchPart]) -> float:
        n = sum(len(part.tokens) for part in parts)
        n_pairs = sum(len(part.tokens) * (part.slot.n + len(part.tokens) / 2) for part in parts)
        computed = max(start, per_token * n) if overlaps else start + per_token * n
        return computed + per_position * n_pairs

    return cost


def gaps(engine: SimulatedEngine, cost: StepCost) -> list[tuple[float, float]]:
    """Return for each step with responses and prompts its duration, and that of the same step without prompts."""
    found: list[tuple[float, float]] = []

    def measured(parts: Sequence[BatchPart]) -> float:
        responses = [part for part in parts if not part.task.n_left]
        if responses and len(responses) < len(parts):
            found.append((cost(parts), cost(responses)))
        return cost(parts)

    engine.cost = measured
    return found


@given(
    seed=st.integers(0, 2**32),
    start=st.sampled_from([1e-3, 0.02, 0.1]),
    per_token=st.sampled_from([0.01, 0.1, 0.7]),
    per_position=st.sampled_from([0.0, 1e-5, 3e-4]),
    overlaps=st.booleans(),
    n_slots=st.integers(2, 6),
)
@settings(deadline=None, max_examples=25)
def test_token_gaps_are_at_most_twice_as_long_beside_prompts(
    seed: int, start: float, per_token: float, per_position: float, overlaps: bool, n_slots: int
) -> None:
    cost = machine(start, start * per_token, start * per_position, overlaps=overlaps)
    engine = SimulatedEngine(n_slots, cost, prompt_budget=PromptBudget(2.0))
    found, draw = gaps(engine, cost), Random(seed)
    tasks = [
        SimulatedTask(
            n_prompt=draw.choice([5, 40, 700]), n_response=draw.randint(1, 40), at=start * draw.randint(0, 99)
        )
        for _ in range(8)
    ]
    engine.run(tasks)
    assert all(task.ended is not None for task in tasks)
    assert max(with_prompts / own for with_prompts, own in found or [(1, 1)]) <= 2.0


def long_prompt_beside_a_response(budget: PromptBudget | None) -> tuple[float, SimulatedTask, SimulatedTask]:
    """Return the longest gap of a response while a prompt of 4000 tokens is evaluated, and both requests."""
    engine = SimulatedEngine(2, machine(0.05, 0.005), prompt_budget=budget)
    response, prompt = SimulatedTask(n_response=2000), SimulatedTask(n_prompt=4000, at=1.0)
    engine.run([response, prompt])
    drawn = response.drawn_at
    return max(b - a for a, b in zip(drawn, drawn[1:], strict=False)), response, prompt


def test_a_long_prompt_stalls_responses_without_a_budget() -> None:
    longest, _, _ = long_prompt_beside_a_response(None)
    assert longest == pytest.approx(0.05 + 512 * 0.005)


def test_half_of_the_time_is_left_for_a_long_prompt() -> None:
    longest, response, prompt = long_prompt_beside_a_response(PromptBudget(2.0))
    assert longest <= 2 * 0.055
    assert prompt.drawn_at[0] - 1.0 <= 2.5 * 4000 * 0.005  # alone it takes 20 s
    longest, _, _ = long_prompt_beside_a_response(PromptBudget(4.0))
    assert 3 * 0.055 < longest <= 4 * 0.055


@pytest.mark.parametrize("prompt_gap", [0.0, 0.02])
def test_fast_machines_evaluate_prompts_in_large_parts(prompt_gap: float) -> None:
    """A GPU takes 3 ms for any number of responses, and 3 more ms and 20 us per token for parts of prompts."""

    def cost(parts: Sequence[BatchPart]) -> float:
        n = sum(len(part.tokens) for part in parts if part.task.n_left)
        return 0.003 + (0.003 + 2e-5 * n if n else 0.0)

    engine = SimulatedEngine(16, cost, prompt_budget=PromptBudget(2.0, prompt_gap))
    found = gaps(engine, cost)
    tasks = [SimulatedTask(n_prompt=425, n_response=128) for _ in range(16)]
    engine.run(tasks)
    last = max(task.ended or 0.0 for task in tasks)
    assert (last < 1.5) == (prompt_gap > 0)  # 128 steps of responses and 16 prompts take 0.6 s
    assert max(with_prompts for with_prompts, _ in found) <= max(0.02, 2 * 0.003 + 1e-3)


def test_prompts_alone_have_no_limit() -> None:
    engine = SimulatedEngine(2, machine(0.05, 0.005), prompt_budget=PromptBudget(2.0))
    tasks = [SimulatedTask(n_prompt=1000) for _ in range(2)]
    sizes: list[int] = []
    cost = engine.cost
    engine.cost = lambda parts: sizes.append(sum(len(part.tokens) for part in parts)) or cost(parts)  # type: ignore[func-returns-value]  # append returns None
    engine.run(tasks)
    assert sizes[:3] == [512, 512, 512]
