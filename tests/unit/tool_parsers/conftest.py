"""Fixtures: grammars for the toy tokenizer."""

from __future__ import annotations

from unit.grammars.conftest import context, language

__all__ = ["context", "language"]
