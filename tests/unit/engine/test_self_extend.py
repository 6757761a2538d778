"""The flags of self-extend become a graph with grouped positions, and snapshots are taken at the ends of windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llamafw import Settings, SettingsError
from llamafw import graph as g
from llamafw.engine.components import build_graph
from llamafw.engine.prompt_cache import PromptCache
from llamafw.engine.slot_caches import SlotCaches
from llamafw.engine.slots import Slots
from llamafw.models.gguf import read_gguf
from llamafw.models.rope_settings import apply_rope_settings
from llamafw.plugins import Plugins
from llamafw.testing.tiny import write_tiny_gguf
from support.toy_model import random_logits
from support.toy_snapshots import RecurrentToyBackend


def graph_of(path: Path, settings: Settings) -> g.Graph:
    plugins = Plugins()
    return build_graph(apply_rope_settings(read_gguf(path, plugins.registry("quant"), ()), settings), plugins)


@pytest.mark.inventory("C-037", "C-038")
@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (Settings(grp_attn_n=4), {(4, 512)}),
        (Settings(grp_attn_n=4, grp_attn_w=8), {(4, 8)}),
        (Settings(grp_attn_w=7), set()),
    ],
    ids=["default width", "width", "off"],
)
def test_flags_group_the_positions_of_each_layer(
    tmp_path: Path, settings: Settings, found: set[tuple[int, int]]
) -> None:
    graph = graph_of(write_tiny_gguf(tmp_path / "model.gguf"), settings)
    positions = [value.positions for value in graph if isinstance(value, g.Rope)]
    assert len(positions) == 4
    assert {(one.factor, one.width) for one in positions if isinstance(one, g.GroupedPositions)} == found


def test_model_without_rotations_is_an_error_that_names_the_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = g.Graph(g.EmbeddingLookup(g.TOKENS, g.Weight("token_embd.weight", (3, 4))), None, 8)
    monkeypatch.setattr("llamafw.engine.components.find_registered", lambda *given: lambda model: graph)
    with pytest.raises(SettingsError, match=r"^--grp-attn-n: .* cannot be grouped: it has no rotary positions"):
        graph_of(write_tiny_gguf(tmp_path / "model.gguf"), Settings(grp_attn_n=2))


@pytest.mark.parametrize(("step", "expected"), [(1, [100, 190]), (24, [96, 168]), (300, [])])
def test_snapshots_are_taken_where_the_backend_needs_no_copies(step: int, expected: list[int]) -> None:
    backend = RecurrentToyBackend(random_logits, n_ctx=400, n_slots=1)
    backend.snapshot_step = step  # type: ignore[attr-defined]  # an attribute of some backends
    slots = Slots(1, 400)
    caches = SlotCaches(backend, slots.all, PromptCache(0))
    (slot,) = slots.all
    caches.plan_snapshots(slot, np.zeros(200, np.int32), [100], 10)
    assert slot.marks == expected
    caches.add_marks(slot, [150])
    assert slot.marks == sorted({*expected, *([150 // step * step] if step < 150 else [])})
