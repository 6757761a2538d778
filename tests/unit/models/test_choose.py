"""Which file of a repository is served."""

from __future__ import annotations

import pytest

from llamafw import DownloadError
from llamafw.models.choose import all_parts, choose, find

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
def test_the_quantization_chooses(files: list[str], quant: str | None, chosen: str) -> None:
    assert choose(files, quant, "u/r") == chosen
    assert choose(reversed(files), quant, "u/r") == chosen


@pytest.mark.parametrize("quant", ["Q4_K", "K_M", "4_0", "gguf", ".*"])
def test_a_quantization_that_is_not_there_gets_the_choices(quant: str) -> None:
    with pytest.raises(DownloadError) as caught:
        choose(QWEN, quant, "u/r")
    assert str(caught.value).startswith(f"u/r has no {quant!r}; there are ")
    assert sorted(str(caught.value).split("there are ")[1].split(", ")) == sorted(QWEN[1:5])


def test_no_model_at_all() -> None:
    with pytest.raises(DownloadError, match="u/r has no GGUF model in it"):
        choose(["README.md", "mmproj-a.gguf"], None, "u/r")


def test_a_file_that_is_not_there_gets_near_names() -> None:
    assert find(QWEN, "qwen-q8_0.gguf", "u/r") == "qwen-q8_0.gguf"
    with pytest.raises(DownloadError, match=r"u/r has no file 'qwen-q8_1.gguf'; did you mean qwen-q8_0.gguf"):
        find(QWEN, "qwen-q8_1.gguf", "u/r")
    with pytest.raises(DownloadError, match=r"there are qwen-q2_k.gguf, qwen-q4_0.gguf"):
        find(QWEN, "zzz", "u/r")


def test_the_parts_of_a_model() -> None:
    names = [f"x/a-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert all_parts(names, names[0], "u/r") == names
    assert all_parts(QWEN, QWEN[1], "u/r") == [QWEN[1]]
    with pytest.raises(DownloadError, match=f"{names[1]} is one of 3 parts of a model; name the first, {names[0]}"):
        all_parts(names, names[1], "u/r")
    with pytest.raises(DownloadError, match=f"u/r lacks {names[1]}, {names[2]}"):
        all_parts(names[:1], names[0], "u/r")
