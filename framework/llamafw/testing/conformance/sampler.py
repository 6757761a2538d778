"""The rules for samplers: they leave valid candidates, keep requests apart and declare their options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import jsonschema_rs
import numpy as np
import pytest

from llamafw.errors import RequestError
from llamafw.interfaces import Sampler, SamplerContext, SamplerPlugin
from llamafw.spec import as_json_schema
from llamafw.testing.conformance.base import ProtocolConformance, tokenizer
from llamafw.testing.conformance.option_values import combinations, invalid_values
from llamafw.types import Candidates, JsonSchema

PROMPT = (75, 108, 259, 75, 108, 260, 13, 13, 75, 108)  # with repetitions, for samplers that look back
N_STEPS = 8  # tokens drawn in each run


class SamplerConformance(ProtocolConformance):
    """Subclass it and give the ``name``.

    Attributes
    ----------
    examples : tuple of dict
        Options with which the sampler has an effect; options that are left out have their defaults. Each example is
        tested, in addition to options that are generated from the schemas.
    """

    kind = "sampler"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    def test_options_are_described_and_bounded(self) -> None:
        """Each option has a type, a default and a description; numbers have a minimum and a maximum."""
        assert isinstance(self.registered().truncates, bool), "`truncates` must be True or False"
        for field, schema in self.options().items():
            assert "default" in schema, f"option {field} has no default"
            assert schema.get("description"), f"option {field} has no description"
            assert "type" in schema or "enum" in schema, f"option {field} has no type"
            if schema.get("type") in ("integer", "number"):
                assert {"minimum", "maximum"} <= set(schema), f"option {field} is a number without minimum and maximum"
            try:
                validator = jsonschema_rs.Draft4Validator(as_json_schema(schema))
            except ValueError as error:
                raise AssertionError(f"option {field} is not a valid JSON Schema: {error}") from None
            default = schema["default"]
            assert default is None or validator.is_valid(default), f"option {field} does not allow its own default"

    def test_examples_create_a_sampler(self) -> None:
        """`create` returns a sampler for each of the `examples`, and for at least some options."""
        for example in self.examples:
            assert self.make(self.with_defaults(example)) is not None, f"create returns None for the example {example}"
        self.samplers()

    def test_apply_leaves_valid_candidates(self) -> None:
        """`apply` leaves one or more of the candidates, each once, with float32 logits that are not NaN or +inf."""
        for options, before, after, case in self.applications():
            self.check_candidates(before, after, f"options {options}, candidates {case!r}")

    def test_forbidden_tokens_stay_forbidden(self) -> None:
        """A logit of −inf, which forbids a token, stays −inf, and at least one other candidate remains."""
        for options, before, after, case in self.applications():
            where = f"options {options}, candidates {case!r}"
            assert len(after.ids), f"{where}: no candidate is left"
            forbidden = set(before.ids[before.logits == -np.inf].tolist())
            back = set(after.ids[after.logits > -np.inf].tolist()) & forbidden
            assert not back, f"{where}: {len(back)} forbidden tokens are allowed again, such as token {min(back)}"
            assert after.logits.max() > -np.inf, f"{where}: only forbidden tokens are left"

    def test_equal_requests_get_equal_candidates(self) -> None:
        """Two samplers that are created for the same request leave the same candidates."""
        for options, _ in self.samplers():
            first, second = (list(self.run(self.make(options))) for _ in range(2))
            self.check_equal(first, second, f"options {options}, two samplers with the same input")

    def test_apply_may_be_repeated_before_accept(self) -> None:
        """Until `accept`, `apply` depends on the candidates alone.

        It is repeated if a grammar refuses the token, and called for the guesses of draft models.
        """
        for options, _ in self.samplers():
            once, twice = list(self.run(self.make(options))), list(self.run(self.make(options), repeat=True))
            self.check_equal(once, twice, f"options {options}, apply called once and several times per token")

    def test_requests_do_not_affect_each_other(self) -> None:
        """A request gets the same candidates alone and beside another request."""
        for options, _ in self.samplers():
            alone = list(self.run(self.make(options)))
            other, this = self.run(self.make(options), seed=1), self.run(self.make(options))
            beside = [step for step, _ in zip(this, other, strict=True)]
            self.check_equal(alone, beside, f"options {options}, alone and beside another request")

    async def test_server_accepts_valid_options_only(self, serve: Any) -> None:
        """A server accepts the `examples`, answers the same for the same seed, and rejects invalid values with 400."""
        body = {"prompt": "the nation", "n_predict": 4, "ignore_eos": True, "seed": 1, "samplers": [self.name]}
        async with serve(plugin=self.plugins) as client:
            for example in self.examples or ({},):
                answers = []
                for _ in range(2):
                    response = await client.post("/completion", json={**body, **example, "return_tokens": True})
                    assert response.status_code == 200, f"with the options {example} the server answers {response.text}"
                    answers.append(response.json()["tokens"])
                assert answers[0] == answers[1], f"options {example}: the same seed gave {answers[0]} and {answers[1]}"

            for field, schema in self.options().items():
                for value in invalid_values(schema):
                    response = await client.post("/completion", json={**body, field: value})
                    assert response.status_code == 400, f"the server accepts {field}: {value!r}"
                    param = response.json()["error"]["param"]
                    assert param.split(".")[0] == field, f"the error about {field}: {value!r} names {param!r}"

    # --- helpers

    def implementations(self, tiny_model: Path) -> Iterator[tuple[type, Any]]:
        """Yield the plugin and a sampler that it creates."""
        yield SamplerPlugin, self.registered()
        yield Sampler, self.samplers()[0][1]

    def options(self) -> Mapping[str, JsonSchema]:
        """Return the schemas of the sampler's options."""
        plugin: SamplerPlugin = self.registered()
        return plugin.options

    def with_defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``options`` with the defaults of the others."""
        return {field: schema["default"] for field, schema in self.options().items()} | dict(options)

    def make(self, options: Mapping[str, Any]) -> Sampler | None:
        """Create a sampler for one request; None if the options have no effect."""
        context = SamplerContext(PROMPT, tokenizer().n_vocab, 512, tokenizer())
        sampler: Sampler | None = self.registered().create(options, context)
        return sampler

    def samplers(self) -> list[tuple[dict[str, Any], Sampler]]:
        """Return all options under test that create a sampler, each with the sampler; fail if there are none."""
        made = []
        for options in (*map(self.with_defaults, self.examples), *combinations(self.options())):
            try:
                sampler = self.make(options)
            except RequestError:  # these options exclude each other
                continue
            if sampler is not None:
                made.append((options, sampler))
        if not made:
            pytest.fail("create returns None for all options that were tried; give some with an effect in `examples`")
        return made

    def applications(self) -> Iterator[tuple[dict[str, Any], Candidates, Candidates, str]]:
        """Yield options, candidates before and after `apply`, and the name of the case, for every case in `CASES`."""
        for options, sampler in self.samplers():
            for case, make_candidates in CASES.items():
                before, after = make_candidates(), make_candidates()
                with np.errstate(all="ignore"):  # extreme logits may overflow inside the sampler
                    sampler.apply(after)
                yield options, before, after, case

    def run(self, sampler: Sampler | None, seed: int = 0, repeat: bool = False) -> Iterator[Candidates]:
        """Draw the most likely token from random logits, step by step; yield the candidates after each `apply`.

        Parameters
        ----------
        sampler : Sampler
            A new sampler.
        seed : int
            Seed of the logits.
        repeat : bool
            Call `apply` with other logits first.
        """
        assert sampler is not None
        rng = np.random.default_rng(seed)
        for _ in range(N_STEPS):
            logits = rng.normal(0, 3, tokenizer().n_vocab)
            for each in (logits[::-1], logits) if repeat else (logits,):
                candidates = whole_vocabulary(each)
                with np.errstate(all="ignore"):
                    sampler.apply(candidates)
            assert len(candidates.ids), "no candidate is left"
            yield Candidates(candidates.ids.copy(), candidates.logits.copy())
            sampler.accept(int(candidates.ids[candidates.logits.argmax()]))

    def check_candidates(self, before: Candidates, after: Candidates, where: str) -> None:
        """Fail unless a sampler may leave ``after`` of ``before``."""
        ids, logits = after.ids, after.logits
        assert len(ids), f"{where}: no candidate is left"
        assert ids.shape == logits.shape, f"{where}: {len(ids)} ids but {len(logits)} logits are left"
        assert ids.dtype == np.int32, f"{where}: the ids have the dtype {ids.dtype}, expected int32"
        assert logits.dtype == np.float32, f"{where}: the logits have the dtype {logits.dtype}, expected float32"
        assert not np.isnan(logits).any(), f"{where}: {np.isnan(logits).sum()} logits are NaN"
        assert logits.max() < np.inf, f"{where}: a logit is infinite"
        assert len(set(ids.tolist())) == len(ids), f"{where}: a token occurs twice"
        assert set(ids.tolist()) <= set(before.ids.tolist()), f"{where}: there are tokens that were not candidates"

        if after.sorted:
            assert (logits[:-1] >= logits[1:]).all(), f"{where}: `sorted` is True but the logits do not descend"
        if self.registered().truncates:
            logits_before = np.zeros(tokenizer().n_vocab, np.float32)
            logits_before[before.ids] = before.logits
            assert np.array_equal(logits_before[ids], logits), f"{where}: `truncates` is True but logits have changed"

    def check_equal(self, first: list[Candidates], second: list[Candidates], where: str) -> None:
        """Fail unless two runs left the same candidates at every step."""
        assert len(first) == len(second) == N_STEPS
        for step, (one, two) in enumerate(zip(first, second, strict=True)):
            equal = np.array_equal(one.ids, two.ids) and np.array_equal(one.logits, two.logits)
            assert equal, f"{where}: the candidates for token {step} differ"


def whole_vocabulary(logits: Any) -> Candidates:
    """Return candidates as the first sampler of a chain gets them: all ids in order, in a shared read-only array."""
    ids = np.arange(len(logits), dtype=np.int32)
    ids.flags.writeable = False
    return Candidates(ids, np.array(logits, np.float32))


def _noise() -> Any:
    return np.random.default_rng(5).normal(0, 3, tokenizer().n_vocab)


def _descending() -> Candidates:
    order = np.argsort(-_noise(), kind="stable")
    return Candidates(order.astype(np.int32), _noise()[order].astype(np.float32), sorted=True)


def _with(value: float, where: slice) -> Callable[[], Candidates]:
    def make() -> Candidates:
        logits = _noise()
        logits[where] = value
        return whole_vocabulary(logits)

    return make


CASES: Mapping[str, Callable[[], Candidates]] = {
    "the whole vocabulary": lambda: whole_vocabulary(_noise()),
    "descending logits": _descending,
    "a third of the vocabulary, unordered": lambda: Candidates(
        np.arange(300, 0, -3).astype(np.int32), _noise()[:100].astype(np.float32)
    ),
    "one candidate": lambda: Candidates(np.array([7], np.int32), np.array([-3], np.float32), sorted=True),
    "two candidates": lambda: Candidates(np.array([9, 7], np.int32), np.array([1, 2], np.float32)),
    "equal logits": _with(1.5, slice(None)),
    "half of the tokens at −inf": _with(-np.inf, slice(None, None, 2)),
    "all tokens but one at −inf": _with(-np.inf, slice(1, None)),
    "one token far above the others": _with(1e4, slice(3, 4)),
    "most tokens far below the others": _with(-1e30, slice(20, None)),
    "large logits": lambda: whole_vocabulary(_noise() * 1e4),
}
