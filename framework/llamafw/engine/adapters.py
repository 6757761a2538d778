"""The adapters of an engine: which are loaded, which a request uses, and the scales of its tokens.

A request's adapters are fixed when it arrives: later changes concern later requests. Files and graphs are the business
of `adapter_loader`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from llamafw.errors import ModelError, NotSupported, RequestError, Unavailable
from llamafw.interfaces import AdaptingBackend, Backend, BackendContext
from llamafw.types import AdapterKind, AdapterStatus, Floats, Strengths

if TYPE_CHECKING:
    from llamafw.engine.adapter_loader import AdapterLoader
    from llamafw.engine.task import Task
    from llamafw.graph.adapters import Scales
    from llamafw.models.adapters import LoadedAdapter

Chosen = Sequence[tuple[int, float]] | None
"""Ids and scales that a request chooses; None: those of the server."""

RunJob = Callable[[Callable[[Any], Any]], Awaitable[Any]]
"""Runs a function on the engine thread, between two steps; returns its result."""

_NAMES: Mapping[AdapterKind, str] = {"lora": "adapter", "control_vectors": "control vector"}


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An adapter that requests can use."""

    kind: AdapterKind
    id: int
    scale: float  # for requests that do not choose one
    file: LoadedAdapter


class ScaleTable:
    """What the backend's graph with adapters reads for each token.

    Parameters
    ----------
    digests : sequence of str
        The adapters in the graph, in order.
    scales : Scales
        See `llamafw.graph.Adaptation`.
    """

    def __init__(self, digests: Sequence[str] = (), scales: Scales = ()) -> None:
        self.digests = tuple(digests)
        self._owners = np.array([owner for owner, _ in scales], np.int64)
        self._factors = np.array([factor for _, factor in scales], np.float32)

    def scales_of(self, strengths: Strengths) -> Floats:
        """Return the scales of a token, ``(n_scales,)`` float32."""
        values = np.zeros(len(self.digests) + 1, np.float32)  # the last one is for padding
        for digest, scale in strengths:
            values[self.digests.index(digest)] = scale  # one of several that are equal
        return values[self._owners] * self._factors


class Adapters:
    """The adapters of one engine.

    Called on the event loop, unless a method says otherwise.

    Parameters
    ----------
    loader : AdapterLoader, optional
        Reads files and makes graphs. None: the engine has no adapters, and can load none.
    entries : sequence of Entry
        The adapters of the start.
    table : ScaleTable
        What the backend has been given at the start.
    """

    def __init__(
        self, loader: AdapterLoader | None = None, entries: Sequence[Entry] = (), table: ScaleTable | None = None
    ) -> None:
        self._loader, self._entries = loader, tuple(entries)
        self._table = table or ScaleTable()
        self._lock = asyncio.Lock()  # one change after the other
        self._n_ids = {kind: sum(entry.kind == kind for entry in entries) for kind in _NAMES}

    def attach(self, run_job: RunJob, backend: Backend, tasks: Callable[[], Iterable[Task]]) -> None:
        """Let adapters be loaded and unloaded.

        Parameters
        ----------
        run_job : callable
            See `RunJob`.
        backend : Backend
            Runs the graph with adapters.
        tasks : callable
            Returns the tasks that wait or run; called on the engine thread.
        """
        self._run_job, self._backend, self._tasks = run_job, backend, tasks

    # --- what requests use

    def status(self, kind: AdapterKind) -> list[AdapterStatus]:
        """Return the adapters that are loaded, in the order of their ids."""
        return [
            AdapterStatus(one.id, str(one.file.path), one.scale, one.file.task_name, one.file.prompt_prefix)
            for one in self._entries
            if one.kind == kind
        ]

    def strengths(self, lora: Chosen = None, control_vectors: Chosen = None) -> Strengths:
        """Return the adapters that a request uses.

        Raises
        ------
        RequestError
            There is no adapter with a chosen id.
        """
        total: dict[str, float] = {}
        chosen: Mapping[AdapterKind, Chosen] = {"lora": lora, "control_vectors": control_vectors}
        for kind, choice in chosen.items():
            scales = self._chosen_scales(kind, choice, f"{kind}.")
            for entry in self._entries:
                if entry.kind == kind:
                    digest = entry.file.digest
                    total[digest] = total.get(digest, 0.0) + scales.get(entry.id, 0.0)
        return tuple(sorted((digest, scale) for digest, scale in total.items() if scale))

    def set_scales(self, chosen: Sequence[tuple[int, float]], kind: AdapterKind) -> None:
        """Set the scales for requests that do not choose any; they are 0 for adapters that are not among them.

        Raises
        ------
        RequestError
            There is no adapter with one of the ids; nothing has changed.
        """
        scales = self._chosen_scales(kind, chosen)
        self._entries = tuple(
            replace(one, scale=scales.get(one.id, 0.0)) if one.kind == kind else one for one in self._entries
        )

    def _chosen_scales(self, kind: AdapterKind, choice: Chosen, field: str = "") -> Mapping[int, float]:
        """Return a scale for each id; errors name an entry of the request's field, such as ``lora.``."""
        known = {entry.id: entry.scale for entry in self._entries if entry.kind == kind}
        if choice is None:
            return known
        for i, (id, _) in enumerate(choice):
            if id not in known:
                others = f"; loaded: {', '.join(map(str, known))}" if known else ": none is loaded"
                raise RequestError(f"{_NAMES[kind]} {id} does not exist{others}", param=f"{field}{i}.id")
        return dict(choice)

    def are_loaded(self, strengths: Strengths) -> bool:
        """Return whether all of some adapters are loaded."""
        return {digest for digest, _ in strengths} <= {entry.file.digest for entry in self._entries}

    # --- loading

    async def load(self, path: Path, scale: float) -> AdapterStatus:
        """Load a LoRA adapter.

        Raises
        ------
        NotSupported
            The engine can load none.
        RequestError
            The file cannot be read, or does not fit the model.
        Unavailable
            There is not enough memory; nothing has changed.
        """
        loader = self._get_loader()
        async with self._lock:
            try:
                await asyncio.to_thread(loader.check_file, path)
                file = await asyncio.to_thread(loader.read_lora, path)
                entry = Entry("lora", self._n_ids["lora"], scale, file)
                await self._replace((*self._entries, entry), check=loader.check_memory)
            except ModelError as error:
                raise RequestError(f"the adapter cannot be loaded: {error}", param="path") from error
            self._n_ids["lora"] += 1
        return self.status("lora")[-1]

    async def unload(self, id: int) -> None:
        """Unload a LoRA adapter; its id is not used again.

        Raises
        ------
        RequestError
            There is no such adapter.
        Unavailable
            A request uses it.
        """
        async with self._lock:
            if id not in self._chosen_scales("lora", None):
                raise RequestError(f"adapter {id} does not exist", param="id")
            await self._replace(tuple(one for one in self._entries if (one.kind, one.id) != ("lora", id)))

    async def _replace(
        self, entries: tuple[Entry, ...], check: Callable[[BackendContext | None], None] = lambda context: None
    ) -> None:
        """Let the backend run the graph with other adapters, and requests use them.

        ``check`` is called first, on the engine thread, when the backend is in memory; what it raises is raised.
        """
        files = [entry.file for entry in entries]
        context, scales = await asyncio.to_thread(self._get_loader().adapt, files)
        digests = tuple(file.digest for file in files)

        def change(_: object) -> ModelError | None:
            used = {digest for task in self._tasks() for digest, _ in task.adapters}
            if not used <= set(digests):
                raise Unavailable("the adapter is used by a request; try again later")
            check(context)
            try:
                cast("AdaptingBackend", self._backend).set_adapters(context)
            except ModelError as error:
                return error
            self._table = ScaleTable(digests, scales)
            return None

        error = await self._run_job(change)
        if error is not None:
            raise error
        kept = {(entry.kind, entry.id): entry for entry in self._entries}  # scales may have been set meanwhile
        self._entries = tuple(kept.get((entry.kind, entry.id), entry) for entry in entries)

    def _get_loader(self) -> AdapterLoader:
        if self._loader is None or not hasattr(self._backend, "set_adapters"):
            raise NotSupported("this server's backend cannot run adapters")
        return self._loader

    # --- on the engine thread

    def scales_of(self, strengths: Strengths) -> Floats:
        """Return the scales of a token, ``(n_scales,)`` float32."""
        return self._table.scales_of(strengths)

    def check(self, strengths: Strengths) -> None:
        """Raise Unavailable if the backend does not have some adapters: they were unloaded after the request came."""
        if not {digest for digest, _ in strengths} <= set(self._table.digests):
            raise Unavailable("an adapter of this request has been unloaded")
