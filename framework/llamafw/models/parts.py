"""File names of models that are split into parts: ``NAME-00001-of-00003.gguf``.

Independent of their content.
"""

from __future__ import annotations

import re

PART = re.compile(r"(?P<model>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.I)


def part_names(file: str) -> list[str]:
    """Return the names of all parts of the model that ``file`` belongs to, or ``[file]`` if it is not split."""
    match = PART.fullmatch(file)
    if not match or int(match["count"]) < 2:
        return [file]
    numbers = range(1, int(match["count"]) + 1)
    return [f"{match['model']}-{number:05}-of-{match['count']}{match['suffix']}" for number in numbers]


def is_first_part(file: str) -> bool:
    """Return whether ``file`` is the first part of a model, or a whole model."""
    return part_names(file)[0] == file


def model_name(file: str) -> str:
    """Return the name of a file without its suffix and part number."""
    match = PART.fullmatch(file)
    return match["model"] if match else file.rpartition(".")[0] or file
