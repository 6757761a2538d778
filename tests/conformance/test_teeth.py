"""Each promise, broken: the suites say which it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from llamafw import Candidates, ModelError
from llamafw.testing.backend import DeterministicBackend
from llamafw.testing.conformance import (
    BackendConformance,
    QuantConformance,
    SamplerConformance,
    TokenizerConformance,
)
from llamafw.testing.conformance.base import Conformance
from llamafw_plugins.quants.ggml import GgmlType
from llamafw_plugins.tokenizers import make_gpt2
from support.conformance import broken, suite


class Drop:
    """A sampler that keeps its promises: it drops the first candidate, if there are others."""

    options = {"drop": {"type": "boolean", "default": True, "description": "Drop one."}}
    truncates = True

    @classmethod
    def create(cls, options: Any, context: Any) -> Any:
        return cls() if options["drop"] else None

    def apply(self, candidates: Candidates) -> None:
        if candidates.logits[1:].max(initial=-np.inf) > -np.inf:
            candidates.ids, candidates.logits = candidates.ids[1:], candidates.logits[1:]

    def accept(self, token: int) -> None:
        pass


def sampler(**members: Any) -> Any:
    return suite(SamplerConformance, type("Broken", (Drop,), members))


def change(what: str, make: Callable[[Any], Any]) -> Any:
    """A sampler that replaces a member of the candidates."""

    def apply(self: Any, candidates: Any) -> None:
        setattr(candidates, what, make(getattr(candidates, what)))

    return sampler(apply=apply)


def test_a_sampler_without_fault() -> None:
    made = sampler()
    for name in dir(made):
        if name.startswith("test") and "servers" not in name:
            getattr(made, name)()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (change("ids", lambda ids: ids[:0]), "no candidate is left"),
        (change("ids", lambda ids: ids[:1]), "ids and .* logits"),
        (change("ids", lambda ids: ids.astype(np.int64)), "not int32"),
        (change("ids", lambda ids: np.full_like(ids, ids[0])), "there twice"),
        (change("ids", lambda ids: ids + np.int32(1)), "tokens are there that were not"),
        (change("logits", lambda logits: logits.astype(np.float64)), "not float32"),
        (change("logits", lambda logits: logits * np.float32(np.nan)), "NaN"),
        (change("logits", lambda logits: logits / 2), "logits have changed"),
        (change("sorted", lambda _: True), "not descending"),
    ],
    ids=str,
)
def test_candidates_that_are_none(made: Any, message: str) -> None:
    broken(message, made.test_what_it_leaves_are_candidates)


def test_a_sampler_that_brings_back_what_is_forbidden() -> None:
    made = change("logits", lambda logits: np.nan_to_num(logits, neginf=-9))
    broken("forbidden tokens came back", made.test_what_is_forbidden_stays_forbidden)
    made = change("logits", lambda logits: np.full_like(logits, -np.inf))
    broken("only forbidden tokens are left", made.test_what_is_forbidden_stays_forbidden)


def test_a_sampler_with_dice_of_its_own() -> None:
    rng = np.random.default_rng()
    made = change("logits", lambda logits: rng.permutation(logits))
    broken("token 0 had other candidates", made.test_the_same_request_draws_the_same)


def test_a_sampler_that_moves_on_by_itself() -> None:
    def apply(self: Any, candidates: Any) -> None:
        self.n = getattr(self, "n", 0) + 1
        candidates.logits[self.n] = 9

    broken("each token drawn twice", sampler(apply=apply).test_a_token_that_is_drawn_again_has_the_same_candidates)


def test_a_sampler_whose_requests_share_their_state() -> None:
    seen: list[int] = []

    def apply(self: Any, candidates: Any) -> None:
        candidates.logits[seen] -= 1

    def begin(cls: Any, options: Any, context: Any) -> Any:
        seen.clear()
        return cls()

    made = sampler(accept=lambda self, token: seen.append(token), apply=apply, create=classmethod(begin))
    made.test_the_same_request_draws_the_same()
    broken("beside another request", made.test_requests_do_not_see_one_another)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"type": "number", "default": 1, "description": "x"}, "without minimum and maximum"),
        ({"type": "boolean", "description": "x"}, "no default"),
        ({"type": "boolean", "default": True}, "no description"),
        ({"default": True, "description": "x"}, "no type"),
        ({"type": "boolean", "default": 3, "description": "x"}, "refuses its own default"),
        ({"type": "bool", "default": True, "description": "x"}, "no JSON Schema"),
    ],
    ids=str,
)
def test_options_that_are_not_described(option: Any, message: str) -> None:
    made = sampler(options={"drop": option})
    broken(message, made.test_its_options_are_schemas_with_bounds_defaults_and_descriptions)


def test_a_sampler_that_never_is() -> None:
    made = sampler(create=classmethod(lambda cls, options, context: None))
    broken("no options that were tried", made.test_its_examples_do_something)


# --- backends


def backend(**members: Any) -> Any:
    return suite(BackendConformance, type("Broken", (DeterministicBackend,), members), follows_the_model=False)


def rows(change: Callable[[Any, Any], Any]) -> Any:
    """A backend whose logits are changed."""
    return backend(forward=lambda self, batch: change(self, DeterministicBackend.forward(self, batch)))


def test_a_backend_that_computes_something_else(write_model: Any) -> None:
    made = suite(BackendConformance, DeterministicBackend)
    broken("away from float64", made.test_logits_are_those_of_float64, write_model)


@pytest.mark.parametrize(
    ("made", "test", "message"),
    [
        (rows(lambda self, x: x + len(x)), "any_cut_of_a_prompt_gives_the_same", "pieces of"),
        (
            rows(lambda self, x: x + sum(map(len, self._slots))),
            "sequences_of_any_length_side_by_side",
            "beside other sequences",
        ),
        (rows(lambda self, x: x + self.n_threads), "the_number_of_threads_changes_nothing", "2 threads instead of 1"),
        (rows(lambda self, x: x.astype(np.float64)), "only_the_wanted_rows_are_returned", "logits are float64"),
        (
            backend(shift=lambda self, slot, first, n: None),
            "shifted_positions_are_as_if_evaluated_there",
            "after shift",
        ),
        (
            backend(restore=lambda self, slot, n, state: None),
            "a_foreign_state_is_refused_and_changes_nothing",
            "DID NOT RAISE",
        ),
        (backend(restore=lambda self, slot, n, state: None), "what_is_restored_goes_on_to_the_bit", "shape is|differ"),
        (backend(describe=lambda self: {}), "it_has_what_it_was_asked_for", "n_threads"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_backends(made: Any, test: str, message: str, write_model: Any) -> None:
    make = made.thing()
    made.__class__.thing = classmethod(lambda cls: partial(with_threads, make))
    broken(message, getattr(made, f"test_{test}"), write_model)


def with_threads(make: Any, context: Any) -> Any:
    made = make(context)
    made.n_threads = context.options.n_threads
    return made


# --- tensor types and tokenizers


class Half(GgmlType):
    """F16, with a fault."""

    def dequantize(self, data: Any, shape: Any) -> Any:
        return self.fault(super().dequantize, data, shape)


def quant(fault: Callable[..., Any], type_id: int = 1) -> Any:
    made = type("Broken", (Half,), {"fault": staticmethod(fault), "__slots__": ()})("F16", type_id, 1, 2)
    return suite(QuantConformance, made, name="F16")


def ignore(exact: Any, data: Any, shape: Any) -> Any:
    try:
        return exact(data, shape)
    except ModelError:
        return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("made", "test", "message"),
    [
        (quant(lambda exact, data, shape: exact(data, shape) * np.float32(1.001)), "weights_are_exact", "differ"),
        (quant(lambda exact, data, shape: exact(data, shape).reshape(-1)), "any_shape_of_whole_blocks", "came"),
        (quant(lambda exact, data, shape: exact(data, shape) + exact(data, shape).max()), "blocks_are_apart", "alone"),
        (
            quant(lambda exact, data, shape: exact(data, shape).astype(np.float16)),
            "any_shape_of_whole_blocks",
            "weights are float16",
        ),
        (quant(ignore), "bytes_that_are_no_such_tensor_are_refused", "are accepted"),
        (
            quant(lambda exact, data, shape: exact(data, shape), 3),
            "its_number_and_sizes_clash_with_no_type_of_ggml",
            "the number of ggml's Q4_1",
        ),
    ],
)
def test_tensor_types(made: Any, test: str, message: str) -> None:
    broken(message, getattr(made, f"test_{test}"))


def tokenizer(**members: Any) -> Any:
    def make(metadata: Any) -> Any:
        made = make_gpt2(metadata)
        made.__class__ = type("Broken", (type(made),), members)
        return made

    return suite(TokenizerConformance, make, name="gpt2")


def encoding(change: Callable[[Any, Any, str, dict[str, Any]], Any]) -> Any:
    right = type(make_gpt2(TokenizerConformance.find_metadata(suite(TokenizerConformance, None, name="gpt2")))).encode
    return tokenizer(encode=lambda self, text, **how: change(partial(right, self), self, text, how))


@pytest.mark.parametrize(
    ("made", "test", "message"),
    [
        (encoding(lambda right, self, text, how: right(text.strip(), **how)), "text_comes_back", "comes back as"),
        (encoding(lambda right, self, text, how: [*right(text, **how), 9999]), "text_comes_back", "has the token 9999"),
        (
            encoding(lambda right, self, text, how: right(text)),
            "text_cannot_pose_as_a_special_token",
            "became the special token 0",
        ),
        (
            encoding(lambda right, self, text, how: right(text.encode("utf-8", "replace").decode(), **how)),
            "what_is_no_text_and_no_token_is_refused",
            "DID NOT RAISE",
        ),
        (tokenizer(decode=lambda self, tokens, special=False: "x"), "pieces_are_what_decoding_joins", "its pieces are"),
        (tokenizer(eog=property(lambda self: frozenset({9999}))), "its_numbers_are_tokens", "eog is .9999"),
    ],
)
def test_tokenizers(made: Any, test: str, message: str) -> None:
    broken(message, getattr(made, f"test_{test}"))


def test_a_name_that_nobody_has_registered() -> None:
    class Mistyped(Conformance):
        kind, name = "sampler", "top_kk"

    broken("there is no sampler 'top_kk'; did you mean 'top_k'?", Mistyped.thing)
