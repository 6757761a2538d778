"""Protocols for backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llamafw.errors import ModelError
from llamafw.graph import Graph, Value, layer_of
from llamafw.interfaces.model import Quant
from llamafw.interfaces.operator import Operator
from llamafw.types import BackendOptions, Batch, Bytes, CachePages, Floats, Ints, Model


class Backend(Protocol):
    """Runs a model.

    Created once per model; called on the engine thread, one call at a time.

    The logits of a token depend only on the tokens of its own slot up to that token. If ``exact`` is True, other slots,
    the division of the prompt into batches, and the number of threads do not change a single bit of them.

    If ``can_cut`` is False, the backend is a `SnapshotBackend`, and should be a `HoldingBackend`. If slots can share
    memory, it is a `SharingBackend`. If logits are far from the processor, it can be a `CandidateBackend`. If it can
    run a second graph of the model, for adapters, it is an `AdaptingBackend`. If it can return hidden states and logits
    together, it is a `HiddenBackend`.
    """

    n_slots: int  # sequences held at the same time
    n_ctx: int  # positions per slot
    n_vocab: int  # logits per token; 0 if the model has none, and only embeds texts
    n_batch: int  # maximum number of tokens in a batch
    n_embd: int  # size of a hidden state
    state_format: str  # identifies the layout of saved states, with a version: "numba-1"
    exact: bool  # False: logits may be rounded differently, depending on the rest of the batch
    whole_texts: bool  # True: a text must be one batch, because its tokens see later ones; nothing of it is cached
    can_cut: bool  # True: a slot can be cut at any position
    can_shift: bool  # False: `shift` is never called; the engine evaluates the remaining tokens again

    def forward(self, batch: Batch) -> Floats:
        """Return the logits of the m ``batch.outputs``, ``(m, n_vocab)`` float32.

        The caller may write into the result; it is valid until the next call.

        If it fails, the engine calls `truncate` for each slot of the batch, with the number of positions before the
        batch. If the state of a slot has changed by then, `truncate` must go back to one that is known.

        Raises
        ------
        Unavailable
            The device has not enough memory for the batch. The engine tries each slot alone. A request that fails alone
            is answered with 503 and the message; other requests go on.
        """

    def hidden(self, batch: Batch) -> Floats:
        """Return the hidden states of ``batch.outputs`` after the output norm, ``(m, n_embd)`` float32.

        The rules of `forward` apply.
        """

    def truncate(self, slot: int, n: int) -> int:
        """Remove positions from the end of ``slot`` until at most ``n`` are left; return how many are left.

        If ``can_cut`` is True, that is ``n``, or all positions if there are fewer. Otherwise it may be less, and 0 at
        worst; the engine then evaluates the missing tokens again. A slot of ``n`` positions or fewer does not change.
        """

    def shift(self, slot: int, first: int, n: int) -> None:
        """Remove positions ``first`` … ``first + n - 1`` of ``slot``; later ones move down, with their keys rotated.

        Called only if ``can_shift`` is True.
        """

    def save(self, slot: int, n: int) -> Bytes:
        """Return a copy of the state of the first ``n`` positions of ``slot``, ``(n_bytes,)`` uint8.

        If ``can_cut`` is False, the state includes the snapshots before ``n``.

        Raises
        ------
        LlamafwError
            The slot cannot be cut at ``n``.
        """

    def state_size(self, n: int) -> int:
        """Return the size in bytes of the state of ``n`` positions; if there are snapshots, the largest possible."""

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        """Replace the contents of ``slot`` by ``n`` positions with a ``state`` that `save` returned for any slot.

        Raises
        ------
        LlamafwError
            The state does not fit; the slot is unchanged.
        """

    def describe(self) -> Mapping[str, Any]:
        """Return facts for logs and ``llamafw bench``: ``n_threads``, ``weight_bytes`` read per token …"""

    def close(self) -> None:
        """Stop threads and free memory.

        No other method is called afterwards.
        """


class SnapshotBackend(Backend, Protocol):
    """A backend whose ``can_cut`` is False: its model has a recurrent state, or keeps a window of the text only.

    Such a state cannot be reduced to fewer positions, so the backend keeps snapshots: copies of a slot's state at
    earlier positions. A slot can be cut at its end, at its snapshots, and at 0. The engine asks for snapshots at
    positions where later prompts may diverge, such as the end of a chat's last message. `llamafw.Snapshots` holds
    those of one slot.

    If a slot can be cut at all multiples of some number without copies, the backend has the attribute
    ``snapshot_step`` with this number, and the engine asks for snapshots there only.
    """

    def take_snapshot(self, slot: int) -> None:
        """Keep a copy of the state of ``slot`` at its end, for `truncate`.

        A slot has at most ``BackendOptions.n_snapshots``. If there are more, the backend removes any but the newest.
        """

    def snapshots(self, slot: int) -> Sequence[int]:
        """Return the positions of the snapshots of ``slot``, ascending.

        `truncate` and `shift` remove those after the first removed position. `restore` replaces all of them.
        """


class HoldingBackend(SnapshotBackend, Protocol):
    """A `SnapshotBackend` that can go back by a few positions at low cost, to reject a draft.

    The engine recognises it by its method `hold_state`. With other backends whose ``can_cut`` is False, it verifies no
    drafts.
    """

    def hold_state(self, slot: int) -> None:
        """Keep the state of ``slot`` at its end until the next call for the slot, besides its snapshots.

        `truncate` can go back to it, until the slot is cut before it or `restore` replaces its contents. It is not
        among `snapshots`. Called before a batch with a draft for the slot.
        """


class SharingBackend(Backend, Protocol):
    """A backend whose slots can share memory.

    The engine recognises it by its method `share_prefix`. Slots with a common start then hold it once, while each of
    them can be used like any other.
    """

    def share_prefix(self, source: int, target: int, n: int) -> None:
        """Replace the contents of slot ``target`` by the first ``n`` positions of another slot.

        This has the effect of `restore` with the state that `save(source, n)` returns, in less time and memory.
        ``source`` may have a running request; it has at least ``n`` positions.

        Raises
        ------
        LlamafwError
            ``source`` cannot be cut at ``n``; ``target`` is unchanged.
        """

    def page_counts(self) -> CachePages:
        """Return how much of the cache is used.

        Called on any thread.
        """


class CandidateBackend(Backend, Protocol):
    """A backend that can select the most likely tokens on its device, so that few logits leave it.

    The engine recognises it by its method `top_logits`, and calls it instead of `forward` if no request of a batch
    needs other tokens.
    """

    def top_logits(self, batch: Batch, n: int, n_vocab: int) -> tuple[Ints, Floats]:
        """Return the ``n`` highest logits of each of the m ``batch.outputs``, in descending order.

        Of equal logits, the one of the lower token comes first. The rules of `forward` apply.

        Parameters
        ----------
        batch : Batch
            The batch.
        n : int
            How many logits of each row, from 1 to ``n_vocab``.
        n_vocab : int
            The number of tokens to choose from; those from ``n_vocab`` on are left out.

        Returns
        -------
        ids : (m, n) int32
            The tokens.
        logits : (m, n) float32
            Their logits. Infinities and NaN are among them if the row has any.
        """


class AdaptingBackend(Backend, Protocol):
    """A backend that can run the model with adapters: a graph with some operators more, which read `TokenScales`.

    The engine recognises it by its method `set_adapters`. A batch without ``scales`` must give the same results as
    without adapters. What slots keep is the same for both graphs, and so is its layout.
    """

    def set_adapters(self, context: BackendContext | None) -> None:
        """Prepare a graph for batches with ``scales``, in place of the one before; None: there are no adapters.

        Called between batches. When the model is loaded, the graph is ``BackendContext.adapted`` instead.

        Parameters
        ----------
        context : BackendContext, optional
            The graph, and the model with the tensors that it needs besides those of the model. The other tensors are
            those that the backend has already.

        Raises
        ------
        ModelError
            The backend cannot run the graph; it goes on with the one before.
        """


class HiddenBackend(Backend, Protocol):
    """A backend that can return hidden states together with logits, for drafters that guess with them.

    The engine recognises it by its method `forward_with_hidden`, and calls it instead of `forward` if
    ``BackendContext.keeps_hidden`` is True.
    """

    def forward_with_hidden(self, batch: Batch) -> tuple[Floats, Floats]:
        """Return the logits of ``batch.outputs``, and the hidden states of all tokens of the batch.

        The rules of `forward` apply, to both results. If the backend is exact, the logits are the same as those of
        `forward`.

        Returns
        -------
        logits : (m, n_vocab) float32
            The logits.
        hidden : (n, n_embd) float32
            The hidden states after the output norm.
        """


@dataclass(frozen=True, slots=True)
class BackendContext:
    """The arguments of a `BackendFactory`."""

    model: Model  # the open model file
    graph: Graph  # what it computes
    options: BackendOptions  # settings from flags
    quants: Mapping[str, Quant]  # tensor types of all plugins, by name
    log: Callable[[str], None] = field(default=lambda line: None)  # prints a line of progress
    operators: Mapping[str, Operator] = field(default_factory=dict)  # operators of all plugins, by name
    adapted: BackendContext | None = None  # the same model with the adapters that it has when it is loaded
    keeps_hidden: bool = False  # whether `HiddenBackend.forward_with_hidden` will be called
    beside: Backend | None = None  # runs another graph of the same model; the backend may use its weights

    def implementation(self, backend: str, value: Value) -> Any:
        """Return what runs an operator of a plugin in a backend.

        Parameters
        ----------
        backend : str
            The name of the backend.
        value : Value
            An operator of the graph that the backend itself does not know.

        Raises
        ------
        ModelError
            The backend cannot run the model: the plugin has nothing for this backend, or no plugin has the operator.
        """
        found = next((one for one in self.operators.values() if one.value is type(value)), None)
        if found is None:
            raise self.refuse(backend, value, "no plugin has registered it")
        if backend not in found.backends:
            raise self.refuse(backend, value, f"the plugin {found.plugin} has registered nothing for this backend")
        return found.backends[backend]

    def refuse(self, backend: str, value: Value, reason: str) -> ModelError:
        """Return the error that a backend raises if it cannot run an operator of the graph.

        Parameters
        ----------
        backend : str
            The name of the backend.
        value : Value
            The operator.
        reason : str
            Why, as a sentence without its full stop.
        """
        layer = layer_of(self.graph, value)
        name = type(value).__name__ + ("" if layer is None else f" in layer {layer}")
        return ModelError(f"{self.model.path}: the {backend} backend cannot run the operator {name}: {reason}")


BackendFactory = Callable[[BackendContext], Backend]
"""The object that `register_backends` registers. Called once per model, on the thread that loads it.

It may have a method ``describe_step(context)``, which returns what the backend makes of the model's graph, as text.
``llamafw graph MODEL --step`` prints it. If its attribute ``has_own_memory`` is True, weights and caches are not in the
memory of this process, and the server does not check that they fit.

It may have a method ``given_flags(settings)``, which returns the flags that are given and that only this backend has,
with their values, such as ``--size 5``. If another backend runs the model, they are an error.
"""
