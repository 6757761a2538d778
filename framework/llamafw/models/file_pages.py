"""Lets the memory of mapped model files go, and finds out whether they can be read again.

The pages of the file stay in the cache of the operating system as long as that has space for them.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

from llamafw.checkpoints import ConvertedTensor
from llamafw.errors import ModelError
from llamafw.models.requantize import RequantizedTensor
from llamafw.types import Model, Tensor


def release_file_pages(model: Model) -> None:
    """Take the pages of the model's files out of this process's memory; they are read again when they are needed."""
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is None:  # Windows has no such call, and trims the pages of idle processes itself
        return
    for found in _all_maps(model):
        found.madvise(advice)


def check_file_sizes(model: Model) -> None:
    """Raise ModelError if a mapped file has become shorter; reading its end would end the process."""
    if any(found.size() < len(found) for found in _all_maps(model)):
        raise ModelError(f"{model.path}: the file was truncated after the model was loaded")


def _all_maps(model: Model) -> list[mmap.mmap]:
    return list({id(found): found for tensor in model.tensors.values() for found in _maps(tensor)}.values())


def _maps(tensor: Tensor) -> Iterator[mmap.mmap]:
    if isinstance(tensor, RequantizedTensor):
        yield from _maps(tensor.source)
    elif isinstance(tensor, ConvertedTensor):
        for stored in (stored for source in tensor.sources for stored in source.files):
            yield from _maps(stored)
    else:
        base: Any = tensor.data
        while base is not None and not isinstance(base, mmap.mmap):
            base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
        if base is not None:
            yield base
