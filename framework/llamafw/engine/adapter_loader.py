"""Reads the adapters of a model, and makes the graph with adapters that the backend runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from llamafw.engine.adapters import Adapters, Entry, ScaleTable
from llamafw.engine.components import build_graph
from llamafw.engine.memory_check import mib
from llamafw.engine.memory_estimate import adapter_bytes
from llamafw.errors import ModelError, SettingsError, Unavailable
from llamafw.graph import Adaptation, Graph
from llamafw.graph.adapters import Scales
from llamafw.interfaces import BackendContext
from llamafw.models.adapters import LoadedAdapter, adapt_model, read_control_vector, read_lora
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.types import Model

SCALED_VECTOR = "--control-vector-scaled"
MAX_SCALE = 1000  # as in openapi.yaml, so that clients can send the scales that they are told


@dataclass(frozen=True, slots=True)
class AdapterLoader:
    """What is needed to load adapters for a model.

    Attributes
    ----------
    context : BackendContext
        The model, its graph without adapters, and the settings of the backend.
    plugins : Plugins
        All plugins.
    free_memory : callable, optional
        Returns how many bytes of memory are free. None: the backend has a memory of its own.
    """

    context: BackendContext
    plugins: Plugins
    free_memory: Callable[[], int] | None = None

    def read_lora(self, path: Path) -> LoadedAdapter:
        """Open a LoRA adapter; ModelError if it cannot be read or does not fit the model."""
        loaded = read_lora(path, self.context.model, self.context.quants, self.plugins.registry("conversion"))
        self.adapt([loaded])
        return loaded

    def adapt(self, adapters: Sequence[LoadedAdapter]) -> tuple[BackendContext | None, Scales]:
        """Return the graph with adapters for the backend, and what batches must have for each token.

        Without adapters, there is no graph.

        Raises
        ------
        ModelError
            An adapter does not fit the model.
        """
        if not adapters:
            return None, ()
        found: list[tuple[Adaptation, Model]] = []

        def change(graph: Graph) -> Graph:
            found.append(adapt_model(self.context.model, graph, adapters, self.context.quants))
            return found[0][0].graph

        # before plugins change the graph: what they do to the input of a matrix is not for the adapter of the matrix
        graph = build_graph(self.context.model, self.plugins, change)
        adaptation, model = found[0]
        return replace(self.context, model=model, graph=graph), adaptation.scales

    def check_file(self, path: Path) -> None:
        """Check that an adapter can be read into memory, as far as its files exist.

        Raises
        ------
        Unavailable
            They do not fit into the memory that is free.
        """
        if self.free_memory is None:
            return
        with suppress(OSError, RuntimeError, ValueError):  # `read_lora` says what is wrong
            path = path.expanduser()
            files = path.glob("*.safetensors") if path.is_dir() else [path]
            _check_free(sum(one.stat().st_size for one in files), self.free_memory())

    def check_memory(self, adapted: BackendContext | None) -> None:
        """Check that a backend can have other adapters, besides those that it keeps until these are ready.

        Raises
        ------
        Unavailable
            They do not fit into the memory that is free. The message says how much they need, and how much is free.
        """
        if adapted is None or self.free_memory is None:
            return
        model, options = self.context.model, self.context.options
        needed = adapter_bytes(model, adapted.model, adapted.graph, options, have_been_read=True).total
        _check_free(needed, self.free_memory())


def _check_free(n_needed: int, n_free: int) -> None:
    """Raise Unavailable if adapters need more memory than is free."""
    if n_needed > n_free:
        raise Unavailable(
            f"the adapters would need about {mib(n_needed)} of memory while they load, but {mib(n_free)} are free"
        )


def open_adapters(
    context: BackendContext,
    settings: Settings,
    plugins: Plugins,
    log: Callable[[str], None],
    free_memory: Callable[[], int] | None = None,
) -> tuple[BackendContext, Adapters]:
    """Open the adapters that flags name; return the context of the backend with them.

    ``free_memory`` is that of `AdapterLoader`, for adapters that are loaded later.

    Raises
    ------
    SettingsError
        A value is not a file and a scale.
    ModelError
        An adapter cannot be read, or does not fit the model.
    """
    loader = AdapterLoader(context, plugins, free_memory)
    entries = [*_lora_entries(loader, settings), *_control_vector_entries(loader, settings)]
    files = [entry.file for entry in entries]
    adapted, scales = loader.adapt(files)
    for entry in entries:
        n = len(entry.file.adapter.matrices) or len(entry.file.adapter.directions)
        parts = "matrices" if entry.kind == "lora" else "layers"
        log(f"{entry.file.path}: it changes {n} {parts}, with scale {entry.scale:g}")
    table = ScaleTable([file.digest for file in files], scales)
    return replace(context, adapted=adapted), Adapters(loader, entries, table)


def _lora_entries(loader: AdapterLoader, settings: Settings) -> list[Entry]:
    named = [("--lora", name, 1.0) for name in settings.lora]
    named += [("--lora-scaled", *split_scale("--lora-scaled", text)) for text in settings.lora_scaled]
    entries = []
    for id, (flag, name, scale) in enumerate(named):
        try:
            file = loader.read_lora(Path(name))
        except ModelError as error:
            raise ModelError(f"{flag}: {error}") from None
        entries.append(Entry("lora", id, 0.0 if settings.lora_init_without_apply else scale, file))
    return entries


def _control_vector_entries(loader: AdapterLoader, settings: Settings) -> list[Entry]:
    named = [("--control-vector", name, 1.0) for name in settings.control_vector]
    named += [(SCALED_VECTOR, *split_scale(SCALED_VECTOR, text)) for text in settings.control_vector_scaled]
    context, entries = loader.context, []
    for id, (flag, name, scale) in enumerate(named):
        layers = settings.control_vector_layer_range
        try:
            file = read_control_vector(Path(name), context.model, context.quants, layers)
            loader.adapt([file])
        except ModelError as error:
            raise ModelError(f"{flag}: {error}") from None
        entries.append(Entry("control_vectors", id, scale, file))
    return entries


def names_adapters(settings: Settings) -> bool:
    """Return whether flags name adapters."""
    return bool(settings.lora or settings.lora_scaled or settings.control_vector or settings.control_vector_scaled)


def check_adapters(settings: Settings) -> None:
    """Raise SettingsError if flags of adapters have no scale, no folder, or nothing that they could concern."""
    for flag, texts in (("--lora-scaled", settings.lora_scaled), (SCALED_VECTOR, settings.control_vector_scaled)):
        for text in texts:
            split_scale(flag, text)

    vectors = settings.control_vector or settings.control_vector_scaled
    if settings.control_vector_layer_range and not vectors:
        raise SettingsError("--control-vector-layer-range needs --control-vector or --control-vector-scaled")
    folder = settings.lora_folder
    if folder is not None and not os.path.isdir(os.path.expanduser(folder)):
        raise SettingsError(f"--lora-folder: {folder} is not a folder")


def split_scale(flag: str, text: str) -> tuple[str, float]:
    """Return the file and the scale of ``FILE:SCALE``; SettingsError if there is no scale, or too large a one."""
    name, _, scale = text.rpartition(":")
    try:
        number = float(scale)
    except ValueError:
        number = float("nan")
    if not name or not abs(number) < float("inf"):
        raise SettingsError(f"{flag}: {text!r} is not FILE:SCALE, such as adapter.gguf:0.5")
    if abs(number) > MAX_SCALE:
        raise SettingsError(f"{flag}: the scale {scale} is out of range (from {-MAX_SCALE} to {MAX_SCALE})")
    return name, number
