"""Draw the effect of each sampler: ``python docs/pictures/sampling.py`` writes the SVG files in this folder.

The samplers are the real ones; the distribution is made up: what might follow "In the evening she opened the".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from llamafw import Candidates, GenerateRequest, SamplerContext
from llamafw.sampling.chain import build_chain
from llamafw.sampling.sampler_kernels import CandidateBuffers
from llamafw_plugins.samplers import order
from llamafw_plugins.samplers.adaptive_p import AdaptiveP
from llamafw_plugins.samplers.dry import Dry
from llamafw_plugins.samplers.min_p import MinP
from llamafw_plugins.samplers.mirostat import Mirostat
from llamafw_plugins.samplers.penalties import Penalties
from llamafw_plugins.samplers.temperature import Temperature
from llamafw_plugins.samplers.tfs_z import TfsZ
from llamafw_plugins.samplers.top_k import TopK
from llamafw_plugins.samplers.top_n_sigma import TopNSigma
from llamafw_plugins.samplers.top_p import TopP
from llamafw_plugins.samplers.typ_p import TypP
from llamafw_plugins.samplers.xtc import Xtc

FOLDER = Path(__file__).parent
WORDS = ("door", "window", "book", "box", "letter", "curtain", "closet", "fridge", "trunk", "lid", "gate", "safe")
UNCERTAIN = (0.30, 0.20, 0.14, 0.10, 0.08, 0.06, 0.045, 0.03, 0.02, 0.013, 0.008, 0.004)
CERTAIN = (0.93, 0.03, 0.012, 0.008, 0.006, 0.004, 0.003, 0.0025, 0.002, 0.0012, 0.0008, 0.0005)
TOKENIZER: Any = SimpleNamespace(
    n_vocab=len(WORDS),
    encode=lambda text, **_: [],
    eog=frozenset(),
    piece=lambda token, special=False: WORDS[token].encode(),
)

BAR, GAP, LEFT, TOP, PLOT, FOOT, SPACE = 11, 5, 34, 50, 120, 58, 26  # sizes in pixels
WIDTH = LEFT + len(WORDS) * (BAR + GAP)  # of a panel, in pixels
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #57606a }
.title { font-size: 12px; font-weight: 600; fill: #24292f }
.grid { stroke: #d0d7de; stroke-width: 1 }
.before { fill: #d0d7de }
.after { fill: #2f6fd0 }
.gone { fill: #afb8c1 }
@media (prefers-color-scheme: dark) {
text { fill: #8b949e } .title { fill: #e6edf3 } .grid { stroke: #30363d }
.before { fill: #3d444d } .after { fill: #58a6ff } .gone { fill: #656c76 }
}
"""


@dataclass(frozen=True)
class Panel:
    """A sampler with some options, applied to a distribution."""

    title: str
    sampler: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    distribution: Sequence[float] = UNCERTAIN
    prompt: Sequence[int] = ()
    accepted: Sequence[int] = ()
    marks: Mapping[int, str] = field(default_factory=dict)  # labels over bars, by token

    def run(self) -> tuple[list[float], list[float]]:
        """Return the probabilities before and after; removed tokens have 0."""
        logits = np.log(np.array(self.distribution)).astype(np.float32)
        before = Candidates(np.arange(len(logits), dtype=np.int32), logits.copy())
        after = Candidates(before.ids, logits.copy())
        defaults = {name: schema["default"] for name, schema in self.sampler.options.items()}
        context = SamplerContext(tuple(self.prompt), len(logits), 100, TOKENIZER, seed=1)
        sampler = self.sampler.create(defaults | dict(self.options), context)
        for token in self.accepted:
            sampler.apply(Candidates(before.ids, logits.copy()))
            sampler.accept(token)
        sampler.apply(after)
        return probabilities(before), probabilities(after)


class Chain:
    """A sampler that applies several ones in the order of ``names``, with a request's ``fields``."""

    options: Mapping[str, Any] = {}

    def __init__(self, names: Sequence[str], bias: Mapping[int, float] | None = None, **fields: Any) -> None:
        self.names, self.bias, self.fields = tuple(names), bias or {}, fields

    def create(self, options: Mapping[str, Any], context: SamplerContext) -> Any:
        """Return the chain as one sampler."""
        request = GenerateRequest((), samplers=self.names, options=self.fields, logit_bias=self.bias)
        return SimpleNamespace(
            apply=lambda candidates: self._apply(candidates, build_chain(request, 1, BUILTIN, context))
        )

    @staticmethod
    def _apply(candidates: Candidates, chain: Any) -> None:
        _, left = chain.pick(CandidateBuffers(len(candidates.ids)), candidates.logits)
        candidates.ids, candidates.logits = left.ids, left.logits


def probabilities(candidates: Candidates) -> list[float]:
    """Return the softmax of the remaining candidates, by token."""
    probabilities_by_token = np.zeros(len(WORDS))
    weights = np.exp(candidates.logits.astype(np.float64))
    probabilities_by_token[candidates.ids] = weights / weights.sum()
    return [float(value) for value in probabilities_by_token]


BUILTIN: dict[str, Any] = {
    "penalties": Penalties,
    "dry": Dry,
    "top_n_sigma": TopNSigma,
    "top_k": TopK,
    "tfs_z": TfsZ,
    "typ_p": TypP,
    "top_p": TopP,
    "min_p": MinP,
    "xtc": Xtc,
    "temperature": Temperature,
    "mirostat": Mirostat,
}
COUNTS = {0: "1×", 2: "3×", 5: "1×"}  # of the words in the prompt
PROMPT = (0, 2, 5, 2, 2)
REPEATED = (3, 4, 1, 0, 7, 3, 4, 1)  # box letter window door … box letter window
DRY_OPTIONS = {"dry_multiplier": 0.8, "dry_sequence_breakers": []}

PICTURES: dict[str, Sequence[Panel]] = {
    "logit_bias": [
        Panel("door: false", Chain((), {0: -np.inf}), note="forbidden"),
        Panel("gate: +3", Chain((), {10: 3.0}), note="20 times as likely"),
    ],
    "penalties": [
        Panel(
            "repeat_penalty 1.4", Penalties, {"repeat_penalty": 1.4}, "once for each word", prompt=PROMPT, marks=COUNTS
        ),
        Panel(
            "presence_penalty 0.7",
            Penalties,
            {"presence_penalty": 0.7},
            "once for each word",
            prompt=PROMPT,
            marks=COUNTS,
        ),
        Panel(
            "frequency_penalty 0.7",
            Penalties,
            {"frequency_penalty": 0.7},
            "once per occurrence",
            prompt=PROMPT,
            marks=COUNTS,
        ),
    ],
    "dry": [
        Panel(
            "dry_allowed_length 4", Dry, DRY_OPTIONS | {"dry_allowed_length": 4}, "3 tokens may repeat", prompt=REPEATED
        ),
        Panel("dry_allowed_length 3", Dry, DRY_OPTIONS | {"dry_allowed_length": 3}, "at the limit", prompt=REPEATED),
        Panel(
            "dry_allowed_length 1", Dry, DRY_OPTIONS | {"dry_allowed_length": 1}, "2 more than allowed", prompt=REPEATED
        ),
    ],
    "top_n_sigma": [
        Panel("top_n_sigma 1", TopNSigma, {"top_n_sigma": 1.0}, "uncertain"),
        Panel("top_n_sigma 1", TopNSigma, {"top_n_sigma": 1.0}, "certain", distribution=CERTAIN),
        Panel("top_n_sigma 2", TopNSigma, {"top_n_sigma": 2.0}, "uncertain"),
    ],
    "top_k": [
        Panel("top_k 3", TopK, {"top_k": 3}, "uncertain"),
        Panel("top_k 3", TopK, {"top_k": 3}, "certain: still 3", distribution=CERTAIN),
        Panel("top_k 8", TopK, {"top_k": 8}, "uncertain"),
    ],
    "top_p": [
        Panel("top_p 0.8", TopP, {"top_p": 0.8}, "uncertain: many"),
        Panel("top_p 0.8", TopP, {"top_p": 0.8}, "certain: one", distribution=CERTAIN),
        Panel("top_p 0.95", TopP, {"top_p": 0.95}, "uncertain"),
    ],
    "min_p": [
        Panel("min_p 0.25", MinP, {"min_p": 0.25}, "uncertain: many"),
        Panel("min_p 0.25", MinP, {"min_p": 0.25}, "certain: one", distribution=CERTAIN),
        Panel("min_p 0.05", MinP, {"min_p": 0.05}, "uncertain"),
    ],
    "tfs_z": [
        Panel("tfs_z 0.9", TfsZ, {"tfs_z": 0.9}, "uncertain"),
        Panel("tfs_z 0.9", TfsZ, {"tfs_z": 0.9}, "certain", distribution=CERTAIN),
        Panel("tfs_z 0.98", TfsZ, {"tfs_z": 0.98}, "uncertain"),
    ],
    "typ_p": [
        Panel("typical_p 0.3", TypP, {"typical_p": 0.3}, "the likeliest is removed"),
        Panel("typical_p 0.6", TypP, {"typical_p": 0.6}),
        Panel("typical_p 0.9", TypP, {"typical_p": 0.9}),
    ],
    "xtc": [
        Panel("xtc_threshold 0.09", Xtc, {"xtc_probability": 1, "xtc_threshold": 0.09}, "when applied"),
        Panel("xtc_threshold 0.15", Xtc, {"xtc_probability": 1, "xtc_threshold": 0.15}, "when applied"),
        Panel(
            "xtc_threshold 0.09",
            Xtc,
            {"xtc_probability": 1, "xtc_threshold": 0.09},
            "certain: no effect",
            distribution=CERTAIN,
        ),
    ],
    "temperature": [
        Panel("temperature 0.4", Temperature, {"temperature": 0.4}, "sharper"),
        Panel("temperature 1.8", Temperature, {"temperature": 1.8}, "flatter"),
        Panel("temperature 0", Temperature, {"temperature": 0}, "the likeliest"),
    ],
    "dynatemp": [
        Panel("1 ± 0.8", Temperature, {"temperature": 1, "dynatemp_range": 0.8}, "uncertain: T = 1.5"),
        Panel(
            "1 ± 0.8", Temperature, {"temperature": 1, "dynatemp_range": 0.8}, "certain: T = 0.4", distribution=CERTAIN
        ),
    ],
    "adaptive_p": [
        Panel("adaptive_target 0.1", AdaptiveP, {"adaptive_target": 0.1}, "at the start"),
        Panel("adaptive_target 0.1", AdaptiveP, {"adaptive_target": 0.1}, "after the likely “door”", accepted=(0, 0)),
        Panel("adaptive_target 0.3", AdaptiveP, {"adaptive_target": 0.3}, "at the start"),
    ],
    "mirostat": [
        Panel("at the start", Mirostat, {"mirostat": 2, "mirostat_tau": 2.2, "mirostat_eta": 0.5}, "µ = 2 · tau"),
        Panel(
            "after the likely “door”",
            Mirostat,
            {"mirostat": 2, "mirostat_tau": 2.2, "mirostat_eta": 0.5},
            "µ has grown",
            accepted=(0,),
        ),
        Panel(
            "after the unlikely “curtain”",
            Mirostat,
            {"mirostat": 2, "mirostat_tau": 2.2, "mirostat_eta": 0.5},
            "µ has shrunk",
            accepted=(5,),
        ),
    ],
    "order": [
        Panel(
            "top_p, temperature", Chain(("top_p", "temperature"), top_p=0.8, temperature=2.0), note="0.8 of the model’s"
        ),
        Panel(
            "temperature, top_p",
            Chain(("temperature", "top_p"), top_p=0.8, temperature=2.0),
            note="0.8 of the flatter one",
        ),
        Panel("the default chain", Chain(order.DEFAULT_ORDER), note="with default values"),
    ],
}
"""The panels of each file, drawn side by side."""


def draw(panels: Sequence[Panel]) -> str:
    """Return an SVG picture: for each panel, bars of the probabilities before (grey) and after (blue)."""
    width, height = len(panels) * (WIDTH + SPACE), TOP + PLOT + FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{STYLE}</style>",
    ]
    results = [panel.run() for panel in panels]
    for i, (panel, (before, after)) in enumerate(zip(panels, results, strict=True)):
        scale = PLOT / max(*before, *after)
        parts.append(f'<g transform="translate({i * (WIDTH + SPACE)} 0)">')
        parts += _axes(panel, scale)
        for token, (old, new) in enumerate(zip(before, after, strict=True)):
            parts += _bar(token, old * scale, new * scale, panel.marks.get(token, ""))
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes(panel: Panel, scale: float) -> list[str]:
    bottom = TOP + PLOT
    lines = [
        f'<text class="title" x="{LEFT}" y="14">{escape(panel.title)}</text>',
        f'<text x="{LEFT}" y="28">{escape(panel.note)}</text>',
    ]
    step = 0.1 if PLOT / scale < 0.45 else 0.25
    for n in range(1 + int(PLOT / scale / step + 1e-9)):
        y = f"{bottom - n * step * scale:.1f}"
        lines.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH}"/>')
        lines.append(f'<text x="{LEFT - 5}" y="{y}" dy="4" text-anchor="end">{n * step:.0%}</text>')
    return lines


def _bar(token: int, old: float, new: float, mark: str) -> list[str]:
    x, bottom = LEFT + 3 + token * (BAR + GAP), TOP + PLOT
    elements = [f'<rect class="before" x="{x - 1}" y="{bottom - old:.1f}" width="{BAR + 2}" height="{old:.1f}"/>']
    if new:
        elements.append(
            f'<rect class="after" x="{x + 2}" y="{bottom - new:.1f}" width="{BAR - 4}" height="{new:.1f}"/>'
        )
    if mark:
        y = bottom - max(old, new) - 4
        elements.append(f'<text x="{x + BAR / 2}" y="{y:.1f}" text-anchor="middle">{mark}</text>')
    kind = "" if new else ' class="gone"'
    turn = f"translate({x + BAR - 2} {bottom + 12}) rotate(-60)"
    elements.append(f'<text{kind} transform="{turn}" text-anchor="end">{WORDS[token]}</text>')
    return elements


def pictures() -> dict[Path, str]:
    """Return the content of every file."""
    return {FOLDER / f"{name}.svg": draw(panels) for name, panels in PICTURES.items()}


if __name__ == "__main__":
    for path, text in pictures().items():
        path.write_text(text, encoding="utf-8")
