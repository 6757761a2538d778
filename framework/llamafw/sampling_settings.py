"""Define the settings that are the defaults of request fields, and the other names that samplers have.

Part of the table in `settings`. Independent of which samplers are registered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llamafw.errors import SettingsError
from llamafw.options import option, unescape

SAMPLING = "sampling"

SAMPLER_LETTERS = {
    "e": "penalties", "d": "dry", "s": "top_n_sigma", "k": "top_k", "f": "tfs_z", "y": "typ_p", "p": "top_p", "m": "min_p",
    "x": "xtc", "t": "temperature", "a": "adaptive_p", "i": "infill",
}  # fmt: skip
SAMPLER_ALIASES = {
    "top-k": "top_k", "topk": "top_k", "top-p": "top_p", "topp": "top_p", "nucleus": "top_p", "min-p": "min_p", "minp": "min_p",
    "tfs-z": "tfs_z", "tfsz": "tfs_z", "tfs": "tfs_z", "typical-p": "typ_p", "typical": "typ_p", "typ-p": "typ_p", "typp": "typ_p",
    "typ": "typ_p", "top-n-sigma": "top_n_sigma", "topnsigma": "top_n_sigma", "adaptive-p": "adaptive_p", "adaptivep": "adaptive_p",
    "temp": "temperature",
}  # fmt: skip
"""Other names that llama-server has for samplers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """The sampling settings of one server, fixed at start-up."""

    # fmt: off
    predict: int | None = option(None, "-n", "--predict", "--n-predict", group=SAMPLING, type=int, env="LLAMA_ARG_N_PREDICT", metavar="N", low=-2, high=2**31 - 1,
        help="maximum number of tokens to generate, even if a request asks for more; -1: no limit, -2: until the context is full (default: -1)")
    samplers: str | None = option(None, "--samplers", group=SAMPLING, type=str, metavar="NAMES",
        help="samplers to apply, in this order, separated by ';' (default: penalties;dry;top_n_sigma;top_k;tfs_z;typ_p;top_p;min_p;xtc;temperature)")
    sampling_seq: str | None = option(None, "--sampling-seq", "--sampler-seq", group=SAMPLING, type=str, metavar="LETTERS",
        help="short form of --samplers, with a letter for each: e: penalties, d: dry, s: top_n_sigma, k: top_k, f: tfs_z, y: typ_p, p: top_p, m: min_p, x: xtc, t: temperature, a: adaptive_p, i: infill; without e, the penalties come first")
    seed: int | None = option(None, "-s", "--seed", group=SAMPLING, type=int, metavar="N", low=-1, high=2**32 - 1, request_field="seed",
        help="seed of the random number generator; -1: a random seed for each request (default: -1)")
    temp: float | None = option(None, "--temp", "--temperature", group=SAMPLING, type=float, env="LLAMA_ARG_TEMPERATURE", metavar="T", low=-1000, high=1000, request_field="temperature",
        help="temperature; 0 or less: always the most likely token (default: 0.8)")
    top_k: int | None = option(None, "--top-k", group=SAMPLING, type=int, env="LLAMA_ARG_TOP_K", metavar="K", request_field="top_k",
        help="top-k sampling: keep the K most likely tokens; 0: disabled (default: 40)")
    top_p: float | None = option(None, "--top-p", group=SAMPLING, type=float, env="LLAMA_ARG_TOP_P", metavar="P", low=0, high=1, request_field="top_p",
        help="top-p sampling: keep the most likely tokens whose probabilities add up to P; 1: disabled (default: 0.95)")
    min_p: float | None = option(None, "--min-p", group=SAMPLING, type=float, env="LLAMA_ARG_MIN_P", metavar="P", low=0, high=1, request_field="min_p",
        help="min-p sampling: drop tokens less likely than P times the most likely token; 0: disabled (default: 0.05)")
    top_n_sigma: float | None = option(None, "--top-nsigma", "--top-n-sigma", group=SAMPLING, type=float, metavar="N", request_field="top_n_sigma",
        help="top-nσ sampling: keep the tokens whose logits are within N standard deviations of the highest; 0 or less: disabled (default: -1)")
    tfs: float | None = option(None, "--tfs", group=SAMPLING, type=float, metavar="Z", low=0, high=1, request_field="tfs_z",
        help="tail-free sampling; 1: disabled (default: 1)")
    typical: float | None = option(None, "--typical", "--typical-p", group=SAMPLING, type=float, metavar="P", low=0, high=1, request_field="typical_p",
        help="locally typical sampling; 1: disabled (default: 1)")
    repeat_last_n: int | None = option(None, "--repeat-last-n", group=SAMPLING, type=int, metavar="N", low=-1, high=2**31 - 1, request_field="repeat_last_n",
        help="number of last tokens that the penalties consider; 0: disabled, -1: the whole context (default: 64)")
    repeat_penalty: float | None = option(None, "--repeat-penalty", group=SAMPLING, type=float, env="LLAMA_ARG_REPEAT_PENALTY", metavar="X", request_field="repeat_penalty",
        help="penalty for tokens that have occurred; 1: disabled (default: 1)")
    presence_penalty: float | None = option(None, "--presence-penalty", group=SAMPLING, type=float, env="LLAMA_ARG_PRESENCE_PENALTY", metavar="X", request_field="presence_penalty",
        help="penalty for tokens that have occurred, once per token; 0: disabled (default: 0)")
    frequency_penalty: float | None = option(None, "--frequency-penalty", group=SAMPLING, type=float, env="LLAMA_ARG_FREQUENCY_PENALTY", metavar="X", request_field="frequency_penalty",
        help="penalty for tokens that have occurred, once per occurrence; 0: disabled (default: 0)")
    penalize_nl: bool = option(False, "--penalize-nl", group=SAMPLING, type=bool, request_field="penalize_nl",
        help="apply the penalties to newline tokens too")
    dry_multiplier: float | None = option(None, "--dry-multiplier", group=SAMPLING, type=float, metavar="X", low=0, request_field="dry_multiplier",
        help="DRY sampling: strength of the penalty on repeated passages; 0: disabled (default: 0)")
    dry_base: float | None = option(None, "--dry-base", group=SAMPLING, type=float, metavar="X", low=1, request_field="dry_base",
        help="DRY sampling: factor by which the penalty grows with each token of the passage (default: 1.75)")
    dry_allowed_length: int | None = option(None, "--dry-allowed-length", group=SAMPLING, type=int, metavar="N", low=0, high=2**31 - 1, request_field="dry_allowed_length",
        help="DRY sampling: length in tokens of the shortest passage that is penalised (default: 2)")
    dry_penalty_last_n: int | None = option(None, "--dry-penalty-last-n", group=SAMPLING, type=int, metavar="N", low=-1, high=2**31 - 1, request_field="dry_penalty_last_n",
        help="DRY sampling: number of last tokens that are searched; 0: disabled, -1: the whole context (default: 64)")
    dry_sequence_breaker: tuple[str, ...] = option((), "--dry-sequence-breaker", group=SAMPLING, type=str, metavar="TEXT", repeat=True, request_field="dry_sequence_breakers",
        help=r"DRY sampling: a text that ends a passage; may be repeated, and replaces the default ones; none: no such texts (default: \n, :, \", *)")
    xtc_probability: float | None = option(None, "--xtc-probability", group=SAMPLING, type=float, metavar="P", low=0, high=1, request_field="xtc_probability",
        help="XTC sampling: probability with which the most likely tokens are removed; 0: disabled (default: 0)")
    xtc_threshold: float | None = option(None, "--xtc-threshold", group=SAMPLING, type=float, metavar="P", low=0, high=1, request_field="xtc_threshold",
        help="XTC sampling: all tokens that are at least this likely are removed, except the least likely of them; above 0.5: disabled (default: 0.1)")
    adaptive_target: float | None = option(None, "--adaptive-target", group=SAMPLING, type=float, metavar="P", low=-1, high=1, request_field="adaptive_target",
        help="adaptive-p sampling: prefer tokens near this probability; negative: disabled (default: -1)")
    adaptive_decay: float | None = option(None, "--adaptive-decay", group=SAMPLING, type=float, metavar="X", low=0, high=0.99, request_field="adaptive_decay",
        help="adaptive-p sampling: how slowly the target adapts to the tokens that were drawn (default: 0.9)")
    dynatemp_range: float | None = option(None, "--dynatemp-range", group=SAMPLING, type=float, metavar="X", low=0, request_field="dynatemp_range",
        help="dynamic temperature range: from T-X to T+X, depending on the entropy; 0: disabled (default: 0)")
    dynatemp_exp: float | None = option(None, "--dynatemp-exp", group=SAMPLING, type=float, metavar="X", request_field="dynatemp_exponent",
        help="dynamic temperature exponent, applied to the normalised entropy (default: 1)")
    mirostat: int | None = option(None, "--mirostat", group=SAMPLING, type=int, metavar="N", low=0, high=2, request_field="mirostat",
        help="Mirostat version, 1 or 2, which replaces the truncating samplers; 0: disabled (default: 0)")
    mirostat_lr: float | None = option(None, "--mirostat-lr", group=SAMPLING, type=float, metavar="X", low=0, request_field="mirostat_eta",
        help="Mirostat learning rate, eta (default: 0.1)")
    mirostat_ent: float | None = option(None, "--mirostat-ent", group=SAMPLING, type=float, metavar="X", low=0, request_field="mirostat_tau",
        help="Mirostat target entropy, tau, in bits (default: 5)")
    logit_bias: tuple[str, ...] = option((), "-l", "--logit-bias", group=SAMPLING, type=str, metavar="TOKEN(+/-)BIAS", repeat=True,
        help="add BIAS to the logit of a token in every request, such as 15043+1 or 29905-1; may be repeated")
    cache_prompt: bool = option(True, "--cache-prompt", group=SAMPLING, type=bool, env="LLAMA_ARG_CACHE_PROMPT", off_flags=("--no-cache-prompt",), request_field="cache_prompt",
        help="reuse the cached part of prompts")
    reverse_prompt: tuple[str, ...] = option((), "-r", "--reverse-prompt", group=SAMPLING, type=str, metavar="TEXT", repeat=True, request_field="stop",
        help="stop string of requests without one of their own; may be repeated")
    ignore_eos: bool = option(False, "--ignore-eos", group=SAMPLING, type=bool, request_field="ignore_eos",
        help="ignore end-of-generation tokens and continue")
    grammar: str | None = option(None, "--grammar", group=SAMPLING, type=str, metavar="GBNF",
        help="grammar that constrains the output of requests without one of their own (docs/grammars.md)")
    grammar_file: str | None = option(None, "--grammar-file", group=SAMPLING, type=str, metavar="FILE",
        help="file with a grammar, appended to --grammar")
    json_schema: str | None = option(None, "-j", "--json-schema", group=SAMPLING, type=str, metavar="SCHEMA",
        help="JSON schema that constrains the output of requests without one of their own")
    json_schema_file: str | None = option(None, "-jf", "--json-schema-file", group=SAMPLING, type=str, metavar="FILE",
        help="file with a JSON schema, in place of --json-schema")
    special: bool = option(False, "-sp", "--special", group=SAMPLING, type=bool,
        help="output special tokens as text, including the token that ends the output")
    spm_infill: bool = option(False, "--spm-infill", group=SAMPLING, type=bool,
        help="build infill prompts in the order suffix, prefix, middle instead of prefix, suffix, middle, as some models require")
    # fmt: on

    def sampler_names(self) -> tuple[str, ...] | None:
        """Return the samplers of ``--sampling-seq`` or ``--samplers``, in order; None if neither is given."""
        if self.sampling_seq is not None:
            try:
                return read_sampler_names(self.sampling_seq)
            except ValueError as error:
                raise SettingsError(f"--sampling-seq: {error}") from None
        if self.samplers is None:
            return None
        stripped = (name.strip() for name in self.samplers.split(";"))
        return read_sampler_names([name for name in stripped if name])

    def request_texts(self, *, escape: bool) -> dict[str, list[str]]:
        """Return the defaults of request fields that are lists of texts, with escape sequences processed if ``escape``.

        The single sequence breaker ``none`` stands for no text.
        """
        breakers = () if self.dry_sequence_breaker == ("none",) else self.dry_sequence_breaker
        flags = {
            "dry_sequence_breakers": ("--dry-sequence-breaker", self.dry_sequence_breaker, breakers),
            "stop": ("--reverse-prompt", self.reverse_prompt, self.reverse_prompt),
        }
        return {
            field: [unescape(text, flag) if escape else text for text in texts]
            for field, (flag, given, texts) in flags.items()
            if given
        }

    def logit_biases(self) -> dict[int, float]:
        """Return the biases of ``--logit-bias`` by token; biases of the same token are added up."""
        biases: dict[int, float] = {}
        for text in self.logit_bias:
            match = re.fullmatch(r"(\d{1,9})([+-]\d+(?:\.\d*)?|[+-]inf)", text)
            if match is None:
                raise SettingsError(f"--logit-bias: {text!r} must look like TOKEN+BIAS or TOKEN-BIAS, such as 15043+1")
            token = int(match[1])
            biases[token] = biases.get(token, 0.0) + float(match[2])
        return biases


def read_sampler_names(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of samplers that a request or a flag gives, in the order of use.

    Parameters
    ----------
    value : str or sequence of str
        One letter for each sampler, or names. In the short form without a letter for ``penalties``, these come first,
        as in the version of llama-server that introduced it.

    Raises
    ------
    ValueError
        A letter stands for no sampler. Names are not checked.
    """
    if not isinstance(value, str):
        return tuple(SAMPLER_ALIASES.get(name, name) for name in value)

    unknown = next((letter for letter in value if letter not in SAMPLER_LETTERS), None)
    if unknown is not None:
        raise ValueError(f"{unknown!r} is not one of {', '.join(SAMPLER_LETTERS)}")
    names = tuple(SAMPLER_LETTERS[letter] for letter in value)
    return names if "penalties" in names else ("penalties", *names)
