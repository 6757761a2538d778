"""Find the names that a mistyped name was probably meant to be.

Independent of the meaning of the names.
"""

from __future__ import annotations

from collections.abc import Iterable
from os.path import commonprefix

_LETTERS_PER_EDIT = 3  # a name of 3 letters may differ by one edit, a name of 6 by two
_MAX_EDITS = 2
_MIN_ABBREVIATION = 3  # letters


def nearest(name: str, known: Iterable[str], *, n: int = 1) -> list[str]:
    """Return the known names that a mistyped name was probably meant to be, the nearest first.

    A known name is near if few edits lead to it: one for every three letters, and at most two. Inserting, deleting or
    replacing a letter is one edit, and so is swapping two neighbours; in a name of two letters, only a swap is near.
    If no name is near and exactly one known name begins with ``name``, or ``name`` with exactly one known name of four
    letters or more, that one is returned. Case and leading hyphens do not count, and underscores count as hyphens.

    Parameters
    ----------
    name : str
        The unknown name.
    known : iterable of str
        The names that exist.
    n : int
        Maximum number of names to return.

    Returns
    -------
    list of str
        Names of ``known``; empty if none is near.
    """
    names = {candidate: _normalized(candidate) for candidate in known}
    wanted = _normalized(name)
    ranks: dict[str, tuple[int, int]] = {}
    for candidate, normalized in names.items():
        allowed = _allowed_edits(wanted, normalized)
        if abs(len(wanted) - len(normalized)) > allowed:
            continue  # without this check, comparing a very long name from a client would take seconds
        edits = edit_distance(wanted, normalized)
        if edits <= allowed:
            ranks[candidate] = edits, -len(commonprefix([wanted, normalized]))
    if ranks:
        return sorted(ranks, key=ranks.__getitem__)[:n]

    if len(wanted) < _MIN_ABBREVIATION:
        return []
    longer = [candidate for candidate, normalized in names.items() if normalized.startswith(wanted)]
    shorter = [
        candidate
        for candidate, normalized in names.items()
        if len(normalized) > _MIN_ABBREVIATION and wanted.startswith(normalized)
    ]
    return next((found for found in (longer, shorter) if len(found) == 1), [])


def edit_distance(a: str, b: str) -> int:
    """Return the number of edits (insert, delete or replace a letter, swap two neighbours) from ``a`` to ``b``.

    This is the optimal string alignment distance, a restricted form of the Damerau-Levenshtein distance.
    """
    two_above: list[int] = []
    above: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        two_above, above, row = above, row, [i]
        for j, other in enumerate(b, 1):
            edits = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and other == a[i - 2]:
                edits = min(edits, two_above[j - 2] + 1)
            row.append(edits)
    return row[-1]


def _allowed_edits(a: str, b: str) -> int:
    allowed = min(max(len(a), len(b)) // _LETTERS_PER_EDIT, _MAX_EDITS)
    is_swap = len(a) == len(b) == 2 and a == b[::-1]  # "-pn" for "-np"
    return 1 if is_swap else allowed


def _normalized(name: str) -> str:
    return name.lstrip("-").lower().replace("_", "-")
