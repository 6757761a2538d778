"""A backend that can leave the memory and come back: ``--sleep-idle-seconds``."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from llamafw.interfaces import AdaptingBackend, Backend, BackendContext
from llamafw.types import CachePages

_FACTS = (
    "n_slots",
    "n_ctx",
    "n_vocab",
    "n_batch",
    "n_embd",
    "state_format",
    "exact",
    "whole_texts",
    "can_cut",
    "can_shift",
)


class UnloadableBackend:
    """Passes all calls to another backend, which it loads again after it was unloaded.

    It has the optional methods that the other one has. While it is unloaded, only facts and `page_counts` are known.

    Parameters
    ----------
    load : callable
        Returns the other backend with the model loaded, and with adapters: its argument is
        ``BackendContext.adapted``. Called at once, and by `load` after `unload`.
    release : callable
        Called after the other backend was closed, to free what else the model has in memory.
    adapted : BackendContext, optional
        The adapters of the start. Later ones replace them when `set_adapters` is called.
    """

    def __init__(
        self,
        load: Callable[[BackendContext | None], Backend],
        release: Callable[[], None] = lambda: None,
        adapted: BackendContext | None = None,
    ) -> None:
        self._load, self._release, self._adapted = load, release, adapted
        self._backend: Backend | None = load(adapted)
        self._pages: CachePages | None = None  # while it is unloaded
        for name in _FACTS:
            setattr(self, name, getattr(self._backend, name))
        if hasattr(self._backend, "set_adapters"):
            self.set_adapters = self._set_adapters

    def __getattr__(self, name: str) -> Any:
        """Return a method of the other backend."""
        return getattr(self._backend, name)

    @property
    def is_loaded(self) -> bool:
        """Whether the other backend is in memory."""
        return self._backend is not None

    @property
    def inner(self) -> Backend | None:
        """The other backend, if it is in memory."""
        return self._backend

    def unload(self) -> None:
        """Close the other backend and free its memory.

        All slots are empty afterwards.
        """
        backend, pages = self._backend, None
        if backend is None:
            return
        if hasattr(backend, "share_prefix"):
            pages = replace(self.page_counts(), n_used=0, n_shared=0, n_touched=0)
        self._pages, self._backend = pages, None
        backend.close()
        del backend
        gc.unfreeze()  # the server freezes what exists when the model is loaded
        gc.collect()
        gc.freeze()
        self._release()

    def load(self) -> None:
        """Load the other backend with its adapters if it is not loaded; if that fails, it stays unloaded."""
        if self._backend is None:
            self._backend = self._load(self._adapted)

    def _set_adapters(self, context: BackendContext | None) -> None:
        """Pass adapters to the other backend, now and whenever it is loaded again."""
        cast("AdaptingBackend", self._backend).set_adapters(context)
        self._adapted = context

    def page_counts(self) -> CachePages:
        """Return how much of the cache is used; called on any thread."""
        backend: Any = self._backend
        pages: CachePages | None = backend.page_counts() if backend is not None else self._pages
        assert pages is not None  # the other backend shares memory, otherwise nobody asks
        return pages

    def close(self) -> None:
        """Close the other backend if it is loaded."""
        if self._backend is not None:
            self._backend.close()
