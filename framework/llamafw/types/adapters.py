"""Adapters of a model, as requests use them and as the server lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AdapterKind = Literal["lora", "control_vectors"]
"""The kinds of adapters, by the request field that chooses their scales."""

Strengths = tuple[tuple[str, float], ...]
"""The adapters that a text is computed with, and their scales, which are not 0.

Each adapter is a digest of its numbers. Texts with the same strengths can share what is cached.
"""


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """An adapter that is loaded."""

    id: int  # by which requests name it
    path: str  # of the file or folder
    scale: float  # for requests that do not choose one
    task_name: str = ""  # what the file says it is for
    prompt_prefix: str = ""  # text that its prompts should begin with, says the file
