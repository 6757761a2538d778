"""What every sampler keeps, whatever it does: candidates stay candidates, requests apart, and options in bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import jsonschema_rs
import numpy as np

from llamafw.errors import RequestError
from llamafw.interfaces import Sampler, SamplerContext, SamplerPlugin
from llamafw.spec import as_json_schema
from llamafw.testing.conformance.base import Conformance, tokenizer
from llamafw.testing.conformance.options import combinations, refused
from llamafw.types import Candidates, JsonSchema

PROMPT = (75, 108, 259, 75, 108, 260, 13, 13, 75, 108)  # with repetitions, for samplers that look back


class SamplerConformance(Conformance):
    """Subclass it, and give the ``name``.

    Attributes
    ----------
    examples : tuple of dict
        Options with which the sampler does something, each tested; the others are at their defaults. More are made of
        the options' schemas.
    """

    kind = "sampler"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    def test_its_options_are_schemas_with_bounds_defaults_and_descriptions(self) -> None:
        assert isinstance(self.thing().truncates, bool), "`truncates` is neither True nor False"
        for field, schema in self.options().items():
            assert "default" in schema, f"{field} has no default"
            assert schema.get("description"), f"{field} has no description"
            assert "type" in schema or "enum" in schema, f"{field} has no type"
            if schema.get("type") in ("integer", "number"):
                assert {"minimum", "maximum"} <= set(schema), f"{field} is a number without minimum and maximum"
            try:
                valid = jsonschema_rs.Draft4Validator(as_json_schema(schema))
            except ValueError as error:
                raise AssertionError(f"{field} is no JSON Schema: {error}") from None
            assert schema["default"] is None or valid.is_valid(schema["default"]), f"{field} refuses its own default"

    def test_its_examples_do_something(self) -> None:
        for example in self.examples:
            assert self.make(self.complete(example)) is not None, f"{example} makes no sampler"
        assert any(True for _ in self.samplers()), "no options that were tried make a sampler; give some in `examples`"

    def test_what_it_leaves_are_candidates(self) -> None:
        """One at least; no NaN; tokens that were there, each once; of all but the reweighed, the same logits."""
        for options, sampler in self.samplers():
            for case, make in CASES.items():
                before, after = make(), make()
                with np.errstate(all="ignore"):  # warnings are its own affair
                    sampler.apply(after)
                self.check(before, after, f"with {options}, given {case}")

    def test_what_is_forbidden_stays_forbidden(self) -> None:
        """A token at −inf has been banned by a bias or a grammar: no sampler may bring it back, or leave only such."""
        for options, sampler in self.samplers():
            for case, make in CASES.items():
                before, after = make(), make()
                with np.errstate(all="ignore"):
                    sampler.apply(after)
                where = f"with {options}, given {case}"
                back = set(after.ids[after.logits > -np.inf].tolist()) & set(before.ids[before.logits == -np.inf])
                assert not back, f"{where}: {len(back)} forbidden tokens came back, {min(back, default=None)} for one"
                assert after.logits.max() > -np.inf, f"{where}: only forbidden tokens are left"

    def test_the_same_request_draws_the_same(self) -> None:
        for options in self.some_options():
            first, second = (list(self.run(self.make(options))) for _ in range(2))
            self.check_equal(first, second, f"with {options}, made twice and run alike")

    def test_a_token_that_is_drawn_again_has_the_same_candidates(self) -> None:
        """A grammar may refuse what was drawn: then the chain runs once more, and only then a token is accepted."""
        for options in self.some_options():
            once, twice = list(self.run(self.make(options))), list(self.run(self.make(options), again=True))
            self.check_equal(once, twice, f"with {options}, each token drawn twice")

    def test_requests_do_not_see_one_another(self) -> None:
        for options in self.some_options():
            alone = list(self.run(self.make(options)))
            other, one = self.run(self.make(options), seed=1), self.run(self.make(options))
            beside = [step for step, _ in zip(one, other, strict=True)]
            self.check_equal(alone, beside, f"with {options}, alone and beside another request")

    async def test_servers_take_its_options_and_refuse_wrong_ones(self, serve: Any) -> None:
        body = {"prompt": "the nation", "n_predict": 4, "ignore_eos": True, "seed": 1, "samplers": [self.name]}
        async with serve(plugin=self.plugins) as client:
            for example in self.examples or ({},):
                found = []
                for _ in range(2):
                    response = await client.post("/completion", json={**body, **example, "return_tokens": True})
                    assert response.status_code == 200, f"{example}: {response.text}"
                    found.append(response.json()["tokens"])
                assert found[0] == found[1], f"{example}: the same seed gave {found[0]} and {found[1]}"
            for field, schema in self.options().items():
                for value in refused(schema):
                    response = await client.post("/completion", json={**body, field: value})
                    assert response.status_code == 400, f"{field}: {value!r} is accepted"
                    assert response.json()["error"]["param"].split(".")[0] == field

    # --- how

    def options(self) -> Mapping[str, JsonSchema]:
        """Return the sampler's options."""
        plugin: SamplerPlugin = self.thing()
        return plugin.options

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``given`` and the defaults of the other options."""
        return {field: schema["default"] for field, schema in self.options().items()} | dict(given)

    def make(self, options: Mapping[str, Any]) -> Sampler | None:
        """Return a sampler for one request."""
        context = SamplerContext(PROMPT, tokenizer().n_vocab, 512, tokenizer())
        sampler: Sampler | None = self.thing().create(options, context)
        return sampler

    def some_options(self) -> Iterator[dict[str, Any]]:
        """Yield options that make a sampler."""
        for given in (*map(self.complete, self.examples), *combinations(self.options())):
            try:
                if self.make(given) is not None:
                    yield given
            except RequestError:  # options that do not go together
                continue

    def samplers(self) -> Iterator[tuple[dict[str, Any], Sampler]]:
        """Yield options and the sampler that they make."""
        for options in self.some_options():
            if (sampler := self.make(options)) is not None:
                yield options, sampler

    def run(self, sampler: Sampler | None, seed: int = 0, again: bool = False) -> Iterator[Candidates]:
        """Yield what a sampler leaves of random candidates, token after token; the likeliest is drawn."""
        assert sampler is not None
        rng = np.random.default_rng(seed)
        for _ in range(8):
            logits = rng.normal(0, 3, tokenizer().n_vocab)
            for _ in range(2 if again else 1):
                candidates = every_token(logits)
                with np.errstate(all="ignore"):
                    sampler.apply(candidates)
            yield Candidates(candidates.ids.copy(), candidates.logits.copy())
            sampler.accept(int(candidates.ids[candidates.logits.argmax()]))

    def check(self, before: Candidates, after: Candidates, where: str) -> None:
        """Fail unless ``after`` is what a sampler may leave of ``before``."""
        ids, logits = after.ids, after.logits
        assert len(ids), f"{where}: no candidate is left"
        assert ids.shape == logits.shape, f"{where}: {ids.shape} ids and {logits.shape} logits are left"
        assert ids.dtype == np.int32, f"{where}: ids are {ids.dtype} and not int32"
        assert logits.dtype == np.float32, f"{where}: logits are {logits.dtype} and not float32"
        assert not np.isnan(logits).any(), f"{where}: {np.isnan(logits).sum()} logits are NaN"
        assert logits.max() < np.inf, f"{where}: a logit is infinite"
        assert len(set(ids.tolist())) == len(ids), f"{where}: a token is there twice"
        assert set(ids.tolist()) <= set(before.ids.tolist()), f"{where}: tokens are there that were not"
        if after.sorted:
            assert (logits[:-1] >= logits[1:]).all(), f"{where}: `sorted` is True, and the logits are not descending"
        if self.thing().truncates:
            row = np.zeros(tokenizer().n_vocab, np.float32)
            row[before.ids] = before.logits
            assert np.array_equal(row[ids], logits), f"{where}: `truncates` is True, and logits have changed"

    def check_equal(self, first: list[Candidates], second: list[Candidates], what: str) -> None:
        """Fail unless two runs left the same."""
        for step, (one, two) in enumerate(zip(first, second, strict=True)):
            same = np.array_equal(one.ids, two.ids) and np.array_equal(one.logits, two.logits)
            assert same, f"{what}: token {step} had other candidates"


def every_token(logits: Any) -> Candidates:
    """Return a whole vocabulary as the first sampler of a chain gets it: ids in order, shared, and read-only."""
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
        return every_token(logits)

    return make


CASES: Mapping[str, Callable[[], Candidates]] = {
    "a whole vocabulary": lambda: every_token(_noise()),
    "candidates in descending order": _descending,
    "some candidates, in no order": lambda: Candidates(
        np.arange(300, 0, -3).astype(np.int32), _noise()[:100].astype(np.float32)
    ),
    "one candidate": lambda: Candidates(np.array([7], np.int32), np.array([-3], np.float32), sorted=True),
    "two candidates": lambda: Candidates(np.array([9, 7], np.int32), np.array([1, 2], np.float32)),
    "equal logits": _with(1.5, slice(None)),
    "half of the tokens at −inf": _with(-np.inf, slice(None, None, 2)),
    "all tokens but one at −inf": _with(-np.inf, slice(1, None)),
    "a token far above all others": _with(1e4, slice(3, 4)),
    "tokens far below all others": _with(-1e30, slice(20, None)),
    "large logits": lambda: every_token(_noise() * 1e4),
}
