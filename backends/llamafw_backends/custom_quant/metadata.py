"""Read from a model's metadata, ``prism.hadamard.*``, how its matrices are folded.

Whatever is not known is an error: without the rotation, or with another one, a model would compute nonsense.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import numpy as np

from llamafw import Model, ModelError
from llamafw import graph as g
from llamafw_backends.custom_quant.rotation import Rotation, Signs

PREFIX, KEYS = "prism.", "prism.hadamard."
REQUIRED = ("version", "block_size", "transform", "axis", "sign_mode", "weight_names")
OPTIONAL = ("sign_widths", "sign_values", "inverse_weight_names", "gdn_v_grouped", "tied_output")
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
ARCHITECTURES = ("llama", "qwen3", "qwen3moe", "qwen35", "qwen35moe", "qwen3next")
GROUPED = ("qwen35", "qwen35moe")  # have the heads of the input of `ssm_out` in another order than its columns
FOLDABLE = re.compile(
    r"output\.weight|blk\.\d+\.(attn_(q|k|v|qkv|gate|output)|ffn_(gate|up|down)(_exps|_shexp)?|ffn_gate_up_exps|ssm_out)"
    r"\.weight"
)


def read_rotation(model: Model) -> Rotation | None:
    """Return how the matrices of a model are folded; None if they are not.

    Raises
    ------
    ModelError
        The metadata are incomplete, contradict the tensors, or have a value that is not known.
    """
    if not any(key.startswith(PREFIX) for key in model.metadata):
        return None
    return _Reader(model).read()


class _Reader:
    """Reads and checks the metadata of one model."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def read(self) -> Rotation:
        """Return the rotation that the metadata describe."""
        self._check_keys()
        architecture = self.model.metadata.get("general.architecture")
        if architecture not in ARCHITECTURES:
            self._fail("version", f"is not supported for the architecture {architecture!r:.80}")
        version = self._choice("version", 1, 2)
        self._choice("transform", "normalized-sylvester-walsh-hadamard")
        self._choice("axis", "input-last-dimension")
        block_size = self._get("block_size")
        if type(block_size) is not int or block_size < 1 or block_size & (block_size - 1):
            self._fail("block_size", f"is {block_size!r:.80}; it must be a power of two")

        forward, inverse = self._names("weight_names"), self._names("inverse_weight_names")
        for name in forward:
            if not FOLDABLE.fullmatch(name):
                self._fail("weight_names", f"has {name!r:.80}, which is not a matrix that can be folded")
        if not forward:
            self._fail("weight_names", "is empty")
        if inverse - {EMBEDDING}:
            self._fail("inverse_weight_names", f"has {min(inverse - {EMBEDDING})!r:.80}; only {EMBEDDING} is supported")
        if self._is_tied(version, inverse):
            forward |= {EMBEDDING}

        widths = self._widths(forward | inverse, block_size)
        signs = self._signs(widths, block_size)
        return Rotation(block_size, signs, forward, inverse, self._state_heads(str(architecture)))

    def _check_keys(self) -> None:
        """Raise ModelError if a key is missing or unknown."""
        known = {f"{KEYS}{name}" for name in (*REQUIRED, *OPTIONAL)}
        for key in self.model.metadata:
            if key.startswith(PREFIX) and key not in known:
                raise ModelError(f"{self.model.path}: the metadata key {key} is not known")
        for name in REQUIRED:
            if f"{KEYS}{name}" not in self.model.metadata:
                self._fail(name, "is missing")

    def _is_tied(self, version: int, inverse: frozenset[str]) -> bool:
        """Return whether the folded embedding is the output matrix too."""
        tied = self._flag("tied_output")
        if tied != (version == 2):
            self._fail("tied_output", f"is {tied}, which version {version} cannot have")
        if tied and (HEAD in self.model.tensors or EMBEDDING not in inverse):
            self._fail("tied_output", f"is true, but the file has {HEAD}, or its embedding is not folded")
        return tied

    def _widths(self, names: frozenset[str], block_size: int) -> frozenset[int]:
        """Return the numbers of columns of the folded tensors."""
        widths = set()
        for name in names:
            tensor = self.model.tensors.get(name)
            if tensor is None:
                raise ModelError(f"{self.model.path}: the folded tensor {name!r:.80} is not in the file")
            if tensor.shape[-1] % block_size:
                self._fail("block_size", f"is {block_size}, but {name} has {tensor.shape[-1]} columns")
            widths.add(tensor.shape[-1])
        return frozenset(widths)

    def _signs(self, widths: frozenset[int], block_size: int) -> dict[int, Signs]:
        """Return the signs for each number of columns."""
        mode = self._choice("sign_mode", "identity", "explicit")
        if mode == "identity":
            for name in ("sign_widths", "sign_values"):
                if self._get(name) is not None:
                    self._fail(name, "is present, but sign_mode is identity")
            return {width: np.ones(width, np.int8) for width in widths}

        sizes, values = self._integers("sign_widths"), self._integers("sign_values")
        if not sizes or len(set(sizes)) < len(sizes) or any(size < 1 or size % block_size for size in sizes):
            self._fail("sign_widths", f"is {sizes!r:.80}; it must have different multiples of {block_size}")
        if len(values) != sum(sizes) or set(values) - {1, -1}:
            self._fail("sign_values", f"must have {sum(sizes)} numbers that are 1 or -1")
        if missing := widths - set(sizes):
            self._fail("sign_widths", f"has no signs for rows of {min(missing)} numbers")
        parts = np.split(np.array(values, np.int8), np.cumsum(sizes)[:-1])
        return dict(zip(sizes, parts, strict=True))

    def _state_heads(self, architecture: str) -> tuple[int, int] | None:
        """Return the numbers of groups, and of heads in each, if the columns of ``ssm_out`` are in that order."""
        if not self._flag("gdn_v_grouped"):
            return None
        if architecture not in GROUPED:
            self._fail("gdn_v_grouped", f"is true, which is not supported for the architecture {architecture}")
        sizes = g.state_sizes(g.Metadata(self.model, architecture))
        return sizes.n_group, sizes.n_head // sizes.n_group

    # --- values

    def _get(self, name: str) -> Any:
        return self.model.metadata.get(f"{KEYS}{name}")

    def _choice(self, name: str, *choices: Any) -> Any:
        """Return a value that must be one of some choices."""
        value = self._get(name)
        if type(value) not in (int, str) or value not in choices:
            self._fail(name, f"is {value!r:.80}; it must be {' or '.join(map(str, choices))}")
        return value

    def _flag(self, name: str) -> bool:
        """Return true or false; false if the key is missing."""
        value = self.model.metadata.get(f"{KEYS}{name}", False)
        if not isinstance(value, bool):
            self._fail(name, f"is {value!r:.80}; it must be true or false")
        return value

    def _names(self, name: str) -> frozenset[str]:
        """Return different names; none if the key is missing."""
        names = self.model.metadata.get(f"{KEYS}{name}", [])
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            self._fail(name, "is not an array of strings")
        if len(set(names)) < len(names):
            self._fail(name, "has a name twice")
        return frozenset(names)

    def _integers(self, name: str) -> list[int]:
        """Return the numbers of an array."""
        array = self._get(name)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
            self._fail(name, "is missing or not an array of whole numbers")
        numbers: list[int] = array.tolist()
        return numbers

    def _fail(self, name: str, reason: str) -> NoReturn:
        raise ModelError(f"{self.model.path}: {KEYS}{name} {reason}")
