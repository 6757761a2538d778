"""The drafters of llama-server: n-grams of texts, a small model, and the model's own MTP block."""

from __future__ import annotations

from llamafw import Register, WithHidden, hookimpl
from llamafw_plugins.drafters.draft_mtp import DraftMtp
from llamafw_plugins.drafters.draft_simple import DraftSimple
from llamafw_plugins.drafters.ngram_map_k import NgramMapK
from llamafw_plugins.drafters.ngram_simple import NgramSimple

__all__ = ["register_drafters"]


@hookimpl
def register_drafters(register: Register) -> None:
    """Register every drafter by its name in ``--spec-type``."""
    register("ngram-simple", NgramSimple.create)
    register("ngram-map-k", NgramMapK.create)
    register("draft-simple", DraftSimple.create)
    register("draft-mtp", WithHidden(DraftMtp.create))
