"""A text for measurements with the default model, and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins


def read_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a model file."""
    plugins = Plugins()
    metadata = read_gguf(path, plugins.registry("quant"), ()).metadata
    return plugins.registry("tokenizer")[metadata["tokenizer.ggml.model"]](metadata)


PROSE = """
It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was the
epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of Darkness, it was the
spring of hope, it was the winter of despair, we had everything before us, we had nothing before us, we were all going
direct to Heaven, we were all going direct the other way – in short, the period was so far like the present period, that
some of its noisiest authorities insisted on its being received, for good or for evil, in the superlative degree of
comparison only. There were a king with a large jaw and a queen with a plain face, on the throne of England; there were
a king with a large jaw and a queen with a fair face, on the throne of France. In both countries it was clearer than
crystal to the lords of the State preserves of loaves and fishes, that things in general were settled for ever. It was
the year of Our Lord one thousand seven hundred and seventy-five. Spiritual revelations were conceded to England at that
favoured period, as at this. Mrs. Southcott had recently attained her five-and-twentieth blessed birthday, of whom a
prophetic private in the Life Guards had heralded the sublime appearance by announcing that arrangements were made for
the swallowing up of London and Westminster.
"""  # Charles Dickens, A Tale of Two Cities, 1859
