"""The steps of a graph, from their plan to their records.

One returns logits, one hidden states, and one, if it is asked for, the logits of the outputs and the hidden states of
all tokens.

The steps of a second graph of the same model, one with adapters, use the caches and the weights of the first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llamafw import BackendContext, ModelError
from llamafw_backends.numba_cpu.assembly import Assembly, Step
from llamafw_backends.numba_cpu.kept_rows import keep_hidden
from llamafw_backends.numba_cpu.lowering import Lowering
from llamafw_backends.numba_cpu.memory import Arena, align_up
from llamafw_backends.numba_cpu.rotations import Rotations
from llamafw_backends.numba_cpu.schedule import schedule
from llamafw_backends.numba_cpu.weights import Order, Weights

Assemble = Callable[..., Assembly]


class Steps:
    """The steps of a graph.

    Parameters
    ----------
    context : BackendContext
        The graph, and the model with its tensors.
    rotations : Rotations
        The tables of cosines and sines, which all graphs share.
    n_batch, n_ubatch, n_threads : int
        Maximum numbers of tokens in a batch and in a ubatch, and of threads.
    base : Steps, optional
        The steps of the model's first graph, if this is another one with the same caches.
    shared : Weights, optional
        The weights of another backend for the same model.

    Attributes
    ----------
    weights : Weights
        The weights of the graph; those of ``base`` or ``shared`` are not among them twice.
    logits, hidden : Step
        The steps, after `assemble`.
    both : Step
        The step for both, after `assemble`, if ``context.keeps_hidden`` is True.

    Raises
    ------
    ModelError
        An operator has no kernel, its sizes are not supported, or slots would have to keep other numbers than for
        ``base``.
    """

    weights: Weights
    lowering: Lowering
    logits: Step
    hidden: Step
    both: Step

    def __init__(
        self,
        context: BackendContext,
        rotations: Rotations,
        n_batch: int,
        n_ubatch: int,
        n_threads: int,
        base: Steps | None = None,
        shared: Weights | None = None,
    ) -> None:
        graph = context.graph
        self.weights = Weights(context, base.weights if base else shared)
        results = [(graph, graph.logits or graph.hidden), (graph, graph.hidden)]
        if context.keeps_hidden:
            kept = keep_hidden(graph)
            results.append((kept, kept.logits or kept.hidden))
        lowerings = [Lowering(*one, self.weights, rotations, n_batch) for one in results]
        self.lowering = lowerings[0]
        self._schedules = [schedule(one.units, n_ubatch, n_threads) for one in lowerings]
        if base is not None and self._state_layout() != base._state_layout():
            raise ModelError(f"{context.model.path}: slots would keep other numbers with these adapters than without")

    @property
    def n_bytes(self) -> int:
        """Size of the memory for the buffers of a step."""
        return max(one.n_bytes for one in self._schedules)

    @property
    def scratch_bytes(self) -> int:
        """Size of the memory that each thread needs, after `assemble`."""
        return self._scratch_bytes

    def assemble(self, assemble: Assemble, memory: int, results: tuple[tuple[int, int], tuple[int, int]]) -> None:
        """Write the records.

        Parameters
        ----------
        assemble : callable
            `Assembly`, with all arguments but those that depend on the graph.
        memory : int
            Address of ``n_bytes`` for the buffers.
        results : ((int, int), (int, int))
            Where the logits and the hidden states are returned, and bytes from row to row.
        """
        steps = [
            assemble(schedule=one, memory=memory, result=kind, result_stride=stride).step
            for one, (kind, stride) in zip(self._schedules, (*results, results[0]), strict=False)
        ]
        self._scratch_bytes = max(step.scratch_bytes for step in steps)
        self.logits, self.hidden = steps[:2]
        if len(steps) > 2:
            self.both = steps[2]

    def _state_layout(self) -> tuple[object, ...]:
        """Return what slots keep, and in which order the numbers of keys are."""
        low = self.lowering
        orders: list[Order] = [low.fusion.order_of(low.fusion.chains[cache.k][1]) for cache, _ in low.caches]
        return [layout for _, layout in low.caches], orders, low.state_bytes, low.can_go_back


class AdaptedSteps:
    """The steps of the graph with adapters, and the memory that they have for themselves."""

    def __init__(self, steps: Steps, n_scales: int, n_batch: int) -> None:
        self.steps = steps
        self._buffers = Arena(n_bytes := align_up(steps.n_bytes))
        self.memory = self._buffers.allocate(n_bytes)
        self.scales = np.zeros((n_batch, n_scales), np.float32)
