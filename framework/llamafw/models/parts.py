"""How the files of a model in parts are named: ``NAME-00001-of-00003.gguf``. It knows nothing of what is in them."""

from __future__ import annotations

import re

PART = re.compile(r"(?P<whole>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.I)


def parts(file: str) -> list[str]:
    """Return the names of all parts of the model that ``file`` is a part of; just ``file`` if its name says of none."""
    match = PART.fullmatch(file)
    if not match or int(match["count"]) < 2:
        return [file]
    numbers = range(1, int(match["count"]) + 1)
    return [f"{match['whole']}-{number:05}-of-{match['count']}{match['suffix']}" for number in numbers]


def is_first(file: str) -> bool:
    """Say whether ``file`` is the first part of a model, or all of one."""
    return parts(file)[0] == file


def whole(file: str) -> str:
    """Return a model's name: that of its file, without the suffix and the number of the part."""
    match = PART.fullmatch(file)
    return match["whole"] if match else file.rpartition(".")[0] or file
