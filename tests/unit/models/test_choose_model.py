"""The file to serve is chosen by the quantization in its name."""

from __future__ import annotations

import pytest

from llamafw import DownloadError
from llamafw.models.choose_model import choose_model, find_file, find_parts

QWEN = ["README.md", "qwen-q2_k.gguf", "qwen-q4_0.gguf", "qwen-q4_k_m.gguf", "qwen-q8_0.gguf", "mmproj-qwen-f16.gguf"]
UNSLOTH = [
    "config.json",
    "BF16/M-BF16-00001-of-00002.gguf",
    "BF16/M-BF16-00002-of-00002.gguf",
    "M-UD-Q4_K_XL.gguf",
    "M-Q4_K_M.gguf",
    "M-UD-Q4_K_M.gguf",
    "imatrix_M.gguf",
]

pytestmark = pytest.mark.inventory("O-10")


@pytest.mark.parametrize(
    ("files", "quant", "chosen"),
    [
        (QWEN, None, "qwen-q4_k_m.gguf"),
        (QWEN, "Q8_0", "qwen-q8_0.gguf"),
        (QWEN, "q2_K", "qwen-q2_k.gguf"),
        (["a-q5_k_m.gguf", "a-Q4_1.gguf", "a-Q4_0.gguf"], None, "a-Q4_0.gguf"),
        (["a-q5_k_m.gguf", "a-Q4_1.gguf"], None, "a-Q4_1.gguf"),
        (["b.gguf", "a-f16.gguf"], None, "b.gguf"),
        (["a-f16-00001-of-00002.gguf", "a-f16-00002-of-00002.gguf", "b-f16.gguf"], None, "b-f16.gguf"),
        (UNSLOTH, None, "M-Q4_K_M.gguf"),
        (UNSLOTH, "Q4_K_XL", "M-UD-Q4_K_XL.gguf"),
        (UNSLOTH, "UD-Q4_K_M", "M-UD-Q4_K_M.gguf"),
        (UNSLOTH, "bf16", "BF16/M-BF16-00001-of-00002.gguf"),
        (["f16.gguf"], "F16", "f16.gguf"),
    ],
)
def test_a_model_is_chosen_by_quantization(files: list[str], quant: str | None, chosen: str) -> None:
    assert choose_model(files, quant, "u/r") == chosen
    assert choose_model(reversed(files), quant, "u/r") == chosen


@pytest.mark.parametrize("quant", ["Q4_K", "K_M", "4_0", "gguf", ".*"])
def test_a_missing_quantization_lists_the_models(quant: str) -> None:
    with pytest.raises(DownloadError) as caught:
        choose_model(QWEN, quant, "u/r")
    assert str(caught.value).startswith(f"u/r has no model of quantization {quant!r}; its models are ")
    assert sorted(str(caught.value).split("its models are ")[1].split(", ")) == sorted(QWEN[1:5])


def test_a_repository_without_models_is_refused() -> None:
    with pytest.raises(DownloadError, match="u/r has no GGUF model"):
        choose_model(["README.md", "mmproj-a.gguf"], None, "u/r")


def test_a_missing_file_gets_suggestions() -> None:
    assert find_file(QWEN, "qwen-q8_0.gguf", "u/r") == "qwen-q8_0.gguf"
    with pytest.raises(DownloadError, match=r"u/r has no file 'qwen-q8_1.gguf'; did you mean qwen-q8_0.gguf"):
        find_file(QWEN, "qwen-q8_1.gguf", "u/r")
    with pytest.raises(DownloadError, match=r"its models are qwen-q2_k.gguf, qwen-q4_0.gguf"):
        find_file(QWEN, "zzz", "u/r")


def test_all_parts_of_a_model_are_found() -> None:
    names = [f"x/a-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert find_parts(names, names[0], "u/r") == names
    assert find_parts(QWEN, QWEN[1], "u/r") == [QWEN[1]]
    with pytest.raises(
        DownloadError, match=f"{names[1]} is one of the 3 parts of a model; name the first one, {names[0]}"
    ):
        find_parts(names, names[1], "u/r")
    with pytest.raises(DownloadError, match=f"u/r lacks {names[1]}, {names[2]}"):
        find_parts(names[:1], names[0], "u/r")
