"""The tensors of a model file, found by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from llamafw.graph.values import GraphError, Shape, Value, operand_names
from llamafw.types import Model

HEADS = ("cls.", "dense_2.", "dense_3.")
"""Starts of the names of tensors that make scores and embeddings of hidden states; they are not part of graphs."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the model file, or some of its rows.

    ``first`` and ``last`` select rows of the first axis, for fused tensors that are used in parts.
    """

    name: str  # "blk.0.attn_q.weight"
    shape: Shape  # outermost dimension first, of the selected rows
    first: int = 0
    last: int | None = None  # None: all rows from ``first``

    def rows(self, first: int, last: int) -> Weight:
        """Return the rows ``first`` to ``last - 1`` of the tensor."""
        if not 0 <= first < last <= self.shape[0]:
            raise GraphError(f"{self.name}: rows {first} to {last - 1} are not among its {self.shape[0]} rows")
        return Weight(self.name, (last - first, *self.shape[1:]), self.first + first, self.first + last)


@dataclass(frozen=True, slots=True)
class Parameter:
    """The tensors of one layer of a network: a weight, and a bias and a scale if the file has them."""

    weight: Weight
    bias: Weight | None = None
    scale: Weight | None = None  # one number per matrix, in NVFP4 files

    def rows(self, first: int, last: int) -> Parameter:
        """Return the parameter that computes the outputs ``first`` to ``last - 1`` of the layer."""
        bias, n = self.bias, self.weight.shape[0]
        if bias is not None and bias.shape != (n,):
            raise GraphError(f"the tensor {bias.name!r} has shape {bias.shape} instead of {(n,)}")
        bias = None if bias is None else bias.rows(first, last)
        return Parameter(self.weight.rows(first, last), bias, self.scale)


class Parameters(Mapping[str, Parameter]):
    """The parameters of a model by name, such as ``token_embd``.

    Records which tensors were used.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        All tensors of the file and their shapes, outermost dimension first.
    """

    def __init__(self, shapes: Mapping[str, Shape], *, _prefix: str = "", _used: set[str] | None = None) -> None:
        self._shapes, self._prefix = shapes, _prefix
        self._used: set[str] = set() if _used is None else _used

    @classmethod
    def of(cls, model: Model) -> Parameters:
        """Return the parameters of an open model file."""
        return cls({name: tensor.shape for name, tensor in model.tensors.items()})

    def of_shape(self, name: str, *shape: int) -> Parameter:
        """Return a parameter; GraphError if its weight is missing or has another shape.

        Files may lack outermost dimensions of 1.
        """
        parameter = self[name]
        weight = parameter.weight
        if (*[1] * (len(shape) - len(weight.shape)), *weight.shape) != shape:
            raise GraphError(f"the tensor {weight.name!r} has shape {weight.shape}, not {shape}")
        return replace(parameter, weight=Weight(weight.name, shape))

    def __getitem__(self, name: str) -> Parameter:
        """Return a parameter; GraphError if its weight is missing."""
        weight = self._find(name, "weight")
        if weight is None:
            raise GraphError(f"the tensor '{self._prefix}{name}.weight' is missing")
        self._find(name, "input_scale")  # of NVFP4 files, for activations of 4 bits: of no use here
        scale = self._find(name, "scale")
        if scale is not None and not scale.shape:
            raise GraphError(f"the tensor {scale.name!r} has shape (), not (1,)")
        return Parameter(weight, self._find(name, "bias"), scale)

    def __contains__(self, name: object) -> bool:
        return f"{self._prefix}{name}.weight" in self._shapes

    def __iter__(self) -> Iterator[str]:
        for name in self._shapes:
            if name.startswith(self._prefix) and name.endswith(".weight"):
                yield name.removeprefix(self._prefix).removesuffix(".weight")

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def tensor(self, name: str, *shape: int) -> Weight:
        """Return a tensor that is not a parameter, such as ``ssm_a``.

        GraphError if it is missing, or has another shape than the given one.
        """
        full = f"{self._prefix}{name}"
        if full not in self._shapes:
            raise GraphError(f"the tensor '{full}' is missing")
        if shape and self._shapes[full] != shape:
            raise GraphError(f"the tensor '{full}' has shape {self._shapes[full]}, not {shape}")
        self._used.add(full)
        return Weight(full, self._shapes[full])

    def has_tensor(self, name: str) -> bool:
        """Return whether the file has the tensor that `tensor` would return."""
        return f"{self._prefix}{name}" in self._shapes

    def layers(self, n: int, prefix: str = "blk") -> Iterator[Parameters]:
        """Yield the parameters of each layer, whose names begin with ``blk.0.``, ``blk.1.`` …"""
        for i in range(n):
            yield Parameters(self._shapes, _prefix=f"{self._prefix}{prefix}.{i}.", _used=self._used)

    def layer(self, i: int) -> Parameters:
        """Return the parameters whose names begin with ``blk.i.``."""
        return Parameters(self._shapes, _prefix=f"{self._prefix}blk.{i}.", _used=self._used)

    def check_all_used(self, architecture: str) -> None:
        """Raise GraphError if the file has an unused tensor: the graph may be incomplete without it."""
        if unused := self.unused():
            raise GraphError(f"the tensor {unused[0]!r} is not part of the {architecture} architecture")

    def unused(self) -> list[str]:
        """Return the names of the unused tensors, sorted."""
        return sorted(set(self._shapes) - self._used)

    def skip(self, *prefixes: str) -> None:
        """Mark the tensors whose names begin with one of the prefixes as used.

        For tensors that the graph does not need, such as ``nextn.`` in a layer, or that something else reads:
        ``rope_freqs.``, ``rope_factors_`` (see `rotation`), ``cls.`` (the score of rerankers).
        """
        starts = tuple(f"{self._prefix}{prefix}" for prefix in prefixes)
        self._used.update(name for name in self._shapes if name.startswith(starts))

    def _find(self, name: str, part: str) -> Weight | None:
        full = f"{self._prefix}{name}.{part}"
        if full not in self._shapes:
            return None
        self._used.add(full)
        return Weight(full, self._shapes[full])


def input_error(weight: Weight, x: Value) -> GraphError:
    """Return the error that an operator's weight and its input ``x`` do not fit together."""
    return GraphError(f"the tensor {weight.name!r} has shape {weight.shape}, but its input has {describe_row(x)}")


def describe_row(value: Value) -> str:
    """Return the shape of a row and the tensor that it comes from, for error messages.

    A row that combines several others, such as a sum, comes from no single tensor.
    """
    origin: Value | None = value
    while origin is not None:
        fields = (getattr(origin, name) for name in operand_names(type(origin)))
        if weight := next((field for field in fields if isinstance(field, Weight)), None):
            return f"{value.shape} (from {weight.name!r})"
        inputs = origin.inputs()
        if len(inputs) > 1:  # a product with a single number comes from the other factor
            inputs = [one for one in inputs if one.shape == origin.shape]
        origin = inputs[0] if len(inputs) == 1 else None
    return str(value.shape)
