"""Rules: which tensors of a GGUF file correspond to which tensors of a checkpoint, by their names.

Names are patterns with placeholders: ``{i}`` is the number of a layer, ``{e}`` that of an expert, ``{part}`` is
``weight`` or ``bias``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from llamafw.checkpoints.changes import Array, Change, Stack

_PLACEHOLDERS = {"i": r"(?P<i>0|[1-9]\d*)", "e": r"(?P<e>0|[1-9]\d*)", "part": r"(?P<part>weight|bias)"}

Binding = tuple[tuple[str, str], ...]
"""What placeholders stand for, except ``{e}``, sorted by name."""


@dataclass(frozen=True)
class Rule:
    """Tensors of a checkpoint, those of a GGUF file that they become, and how.

    Parameters
    ----------
    targets : tuple of str
        Patterns of GGUF's names: ``"blk.{i}.attn_q.{part}"``.
    sources : tuple of str
        Patterns of the checkpoint's names: ``"model.layers.{i}.self_attn.q_proj.{part}"``. One with ``{e}`` stands for
        the tensors of all experts.
    changes : tuple of Change
        What is done with the arrays, first to last, in the direction to GGUF.
    """

    targets: tuple[str, ...]
    sources: tuple[str, ...]
    changes: tuple[Change, ...] = ()

    def match(self, name: str, *, gguf: bool) -> Binding | None:
        """Return what the placeholders stand for in a GGUF name or a checkpoint's name; None if no pattern matches."""
        for pattern in self._target_patterns if gguf else self._source_patterns:
            if found := pattern.fullmatch(name):
                return tuple(sorted((key, value) for key, value in found.groupdict().items() if key != "e"))
        return None

    def target_names(self, binding: Binding) -> list[str]:
        """Return the names in a GGUF file."""
        return [_fill(target, binding) for target in self.targets]

    def source_names(self, binding: Binding, present: Mapping[str, object] | None = None, n: int = 0) -> list[str]:
        """Return the names in a checkpoint.

        The number of experts is ``n``, or follows from the names that are ``present``: the first one that is missing is
        included if others follow it.
        """
        names: list[str] = []
        for source in self.sources:
            stem = _fill(source, binding)
            if "{e}" not in stem:
                names.append(stem)
                continue
            if present is not None:
                pattern = _compile(stem)
                numbers = [int(found["e"]) for name in present if (found := pattern.fullmatch(name))]
                n = max(numbers, default=0) + 1
            names += [stem.replace("{e}", str(e)) for e in range(n)]
        return names

    def forward(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the checkpoint's arrays as GGUF has them."""
        found = list(arrays)
        for change in self.changes:
            found = change.forward(found)
        return found

    def describe(self, arrays: Sequence[Array]) -> list[Array]:
        """Return arrays with the shapes and dtypes of `forward`'s results; see `Change.describe`."""
        found = list(arrays)
        for change in self.changes:
            found = change.describe(found)
        return found

    def backward(self, arrays: Sequence[Array]) -> list[Array]:
        """Return GGUF's arrays as the checkpoint has them."""
        found = list(arrays)
        for change in reversed(self.changes):
            found = change.backward(found)
        return found

    @cached_property
    def _target_patterns(self) -> list[re.Pattern[str]]:
        return [_compile(target) for target in self.targets]

    @cached_property
    def _source_patterns(self) -> list[re.Pattern[str]]:
        return [_compile(source) for source in self.sources]


def rule(targets: str | tuple[str, ...], sources: str | tuple[str, ...], *changes: Change) -> Rule:
    """Return a rule: ``rule("output.weight", "lm_head.weight")``, or with several tensors on one side or both."""
    return Rule(
        (targets,) if isinstance(targets, str) else targets,
        (sources,) if isinstance(sources, str) else sources,
        changes,
    )


def renames(names: Mapping[str, str], layer: str = "model.layers.{i}", *changes: Change) -> list[Rule]:
    """Return a rule for the weights and biases of each role of a layer: ``{"attn_q": "self_attn.q_proj"}``.

    Parameters
    ----------
    names : mapping
        GGUF's name of each parameter, and the checkpoint's, both without what precedes them in every layer.
    layer : str
        What precedes the checkpoint's names.
    changes : Change
        What is done with each array.
    """
    return [rule(f"blk.{{i}}.{role}.{{part}}", f"{layer}.{name}.{{part}}", *changes) for role, name in names.items()]


def expert_rules(
    names: Mapping[str, str], experts: str = "mlp.experts.{e}", layer: str = "model.layers.{i}"
) -> list[Rule]:
    """Return a rule for each role of experts with a tensor of their own: ``{"ffn_gate_exps": "gate_proj"}``."""
    return renames({role: f"{experts}.{name}" for role, name in names.items()}, layer, Stack())


def groups(rules: Sequence[Rule], names: Iterable[str]) -> Iterator[tuple[Rule | None, Binding, str]]:
    """Yield the rule and the placeholders for each name of a checkpoint, each combination once.

    The rule is None if none matches the name. The first rule that matches counts. The name that is yielded is the first
    of the group.
    """
    seen: set[tuple[int, Binding]] = set()
    for name in names:
        for number, one in enumerate(rules):
            binding = one.match(name, gguf=False)
            if binding is None:
                continue
            if (number, binding) not in seen:
                seen.add((number, binding))
                yield one, binding, name
            break
        else:
            yield None, (), name


def _fill(pattern: str, binding: Binding) -> str:
    for key, value in binding:
        pattern = pattern.replace(f"{{{key}}}", value)
    return pattern


def _compile(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(i|e|part)\}", pattern)  # texts, with the names of placeholders between them
    return re.compile(
        "".join(_PLACEHOLDERS[piece] if number % 2 else re.escape(piece) for number, piece in enumerate(pieces))
    )
