"""Flags that set the defaults of sampling."""

from __future__ import annotations

import pytest

from llamafw import Settings, SettingsError
from llamafw_plugins.samplers import DEFAULT_ORDER
from support.flags import parse_settings


@pytest.mark.inventory("C-072", "C-074", "D-06")
@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (("--samplers", "top_k;temperature"), ("top_k", "temperature")),
        (("--samplers", "top-k; nucleus;typical;tfs;temp"), ("top_k", "top_p", "typ_p", "tfs_z", "temperature")),
        (("--sampling-seq", "kfypmt"), ("penalties", "top_k", "tfs_z", "typ_p", "top_p", "min_p", "temperature")),
        (("--sampling-seq", "ket"), ("top_k", "penalties", "temperature")),
        (("--sampling-seq", ""), ("penalties",)),
        (
            ("--samplers", "dry;top-n-sigma;xtc;adaptive-p;infill"),
            ("dry", "top_n_sigma", "xtc", "adaptive_p", "infill"),
        ),
        (("--sampler-seq", "edskypmxt"), DEFAULT_ORDER[:4] + DEFAULT_ORDER[5:]),
        (("--sampler-seq", "eai"), ("penalties", "adaptive_p", "infill")),
        ((), None),
    ],
)
def test_samplers_are_chosen_by_names_or_letters(flags: tuple[str, ...], names: tuple[str, ...] | None) -> None:
    assert parse_settings(*flags).sampler_names() == names


@pytest.mark.inventory("C-074")
def test_an_unknown_sampler_letter_is_refused() -> None:
    with pytest.raises(SettingsError, match="--sampling-seq: 'z' is not one of e, d, s, k, f, y, p, m, x, t, a, i"):
        parse_settings("--sampling-seq", "kz").sampler_names()


@pytest.mark.inventory("C-092")
def test_logit_biases_of_a_token_are_added_up() -> None:
    biases = parse_settings("-l", "15+1.5", "--logit-bias", "7-2", "-l", "7-1", "-l", "9-inf").logit_biases()
    assert biases == {15: 1.5, 7: -3, 9: -float("inf")}


@pytest.mark.inventory("C-092")
@pytest.mark.parametrize("text", ["x+1", "15", "15*2", "-3+1", "15+"])
def test_a_wrong_logit_bias_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--logit-bias: .* must look like TOKEN"):
        Settings(logit_bias=(text,)).logit_biases()


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        pytest.param(("--tfs", "0.5"), "tfs_z", 0.5, marks=pytest.mark.inventory("C-081")),
        pytest.param(("--mirostat", "2"), "mirostat", 2, marks=pytest.mark.inventory("C-089")),
        pytest.param(("--mirostat-lr", "0.3"), "mirostat_eta", 0.3, marks=pytest.mark.inventory("C-090")),
        pytest.param(("--mirostat-ent", "4"), "mirostat_tau", 4, marks=pytest.mark.inventory("C-091")),
        pytest.param(("--seed", "5"), "seed", 5, marks=pytest.mark.inventory("C-073")),
        pytest.param(("--top-nsigma", "1.5"), "top_n_sigma", 1.5, marks=pytest.mark.inventory("M-03")),
        pytest.param(("--dry-multiplier", "0.8"), "dry_multiplier", 0.8, marks=pytest.mark.inventory("M-01")),
        (("--dry-base", "2"), "dry_base", 2),
        (("--dry-allowed-length", "3"), "dry_allowed_length", 3),
        (("--dry-penalty-last-n", "-1"), "dry_penalty_last_n", -1),
        (("--dry-sequence-breaker", r"\n", "--dry-sequence-breaker", "a"), "dry_sequence_breakers", ["\n", "a"]),
        (("--dry-sequence-breaker", r"\n", "--no-escape"), "dry_sequence_breakers", [r"\n"]),
        (("--dry-sequence-breaker", "none"), "dry_sequence_breakers", []),
        pytest.param(("--xtc-probability", "0.5"), "xtc_probability", 0.5, marks=pytest.mark.inventory("M-02")),
        (("--xtc-threshold", "0.2"), "xtc_threshold", 0.2),
        pytest.param(("--adaptive-target", "0.4"), "adaptive_target", 0.4, marks=pytest.mark.inventory("M-04")),
        (("--adaptive-decay", "0.5"), "adaptive_decay", 0.5),
        (("--no-cache-prompt",), "cache_prompt", False),
        (("-r", r"\t", "--reverse-prompt", "END"), "stop", ["\t", "END"]),
        pytest.param(("--ignore-eos",), "ignore_eos", True, marks=pytest.mark.inventory("C-075")),
        pytest.param(("--penalize-nl",), "penalize_nl", True, marks=pytest.mark.inventory("C-076")),
        pytest.param(("--temp", "0.1"), "temperature", 0.1, marks=pytest.mark.inventory("C-077")),
        pytest.param(("--temp", "-1"), "temperature", -1, marks=pytest.mark.inventory("C-077")),
        pytest.param(("--top-k", "7"), "top_k", 7, marks=pytest.mark.inventory("C-078")),
        pytest.param(("--top-p", "0.7"), "top_p", 0.7, marks=pytest.mark.inventory("C-079")),
        pytest.param(("--min-p", "0.2"), "min_p", 0.2, marks=pytest.mark.inventory("C-080")),
        pytest.param(("--typical", "0.4"), "typical_p", 0.4, marks=pytest.mark.inventory("C-082")),
        pytest.param(("--repeat-last-n", "9"), "repeat_last_n", 9, marks=pytest.mark.inventory("C-083")),
        pytest.param(("--repeat-penalty", "1.2"), "repeat_penalty", 1.2, marks=pytest.mark.inventory("C-084")),
        pytest.param(("--presence-penalty", "0.6"), "presence_penalty", 0.6, marks=pytest.mark.inventory("C-085")),
        pytest.param(("--frequency-penalty", "0.7"), "frequency_penalty", 0.7, marks=pytest.mark.inventory("C-086")),
        pytest.param(("--dynatemp-range", "0.3"), "dynatemp_range", 0.3, marks=pytest.mark.inventory("C-087")),
        pytest.param(("--dynatemp-exp", "2"), "dynatemp_exponent", 2, marks=pytest.mark.inventory("C-088")),
    ],
)
def test_a_flag_sets_the_default_of_a_request_field(flags: tuple[str, ...], field: str, value: float) -> None:
    assert parse_settings(*flags).request_defaults() == {field: value}
