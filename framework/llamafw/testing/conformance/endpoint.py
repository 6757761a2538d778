"""What every operation keeps: it is described, it answers its own examples, its errors have the envelope, and whatever
is sent, its answers are as the document says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import jsonschema_rs
import pytest

from llamafw import spec
from llamafw.registry import Registry
from llamafw.server.running_app import RunningApp
from llamafw.testing import contract
from llamafw.testing.conformance.base import Conformance, load
from llamafw.testing.plugin import small_settings

Operation = tuple[str, str, dict[str, Any]]
"""Path, method and what the document says of it."""


class EndpointConformance(Conformance):
    """Subclass it, and give as ``name`` the plugin: its distribution, or what ``llamafw plugins`` lists.

    Attributes
    ----------
    max_examples : int
        Requests that schemathesis makes per operation and phase.
    """

    kind = "endpoint"
    max_examples: ClassVar[int] = 10

    def settings(self, folder: Path) -> Mapping[str, Any]:
        """Return settings of servers with these operations: ``{"extra": {…}}`` for flags of plugins.

        Parameters
        ----------
        folder : Path
            An empty one, for what they may write.
        """
        return {}

    def test_its_operations_are_described(self, tmp_path: Path) -> None:
        for path, method, operation in self.operations(tmp_path):
            where, responses = f"{method.upper()} {path}", operation.get("responses", {})
            assert operation.get("summary"), f"{where} has no summary"
            wanted = {"500"}
            if "requestBody" in operation:
                wanted |= {"400", "413"}
                for kind, content in operation["requestBody"]["content"].items():
                    assert content.get("example") or content.get("examples"), f"{where}: {kind} has no example"
            if operation.get("parameters"):
                wanted.add("400")
            if operation.get("security") != []:
                wanted.add("401")
            missing = wanted - set(responses)
            assert not missing, f"{where} can answer {', '.join(sorted(missing))}, and does not say so"
            assert any(status < "4" for status in responses), f"{where} says of no answer that it is one"
            for parameter in operation.get("parameters", []):
                parameter = self.resolve(parameter)
                assert parameter.get("description"), f"{where}: the parameter {parameter['name']} has no description"

    def test_integers_have_bounds(self, tmp_path: Path) -> None:
        for path, method, operation in self.operations(tmp_path):
            for place, part in self.parts(operation, (), set()):
                if part.get("type") == "integer" and "enum" not in part:
                    where = f"{method.upper()} {path}: {'.'.join(place)}"
                    assert {"minimum", "maximum"} <= set(part), f"{where} is an integer without minimum and maximum"

    def test_examples_are_valid(self, tmp_path: Path) -> None:
        for path, method, operation in self.operations(tmp_path):
            body = operation.get("requestBody", {}).get("content", {})
            answers = [
                content
                for response in operation["responses"].values()
                for content in self.resolve(response).get("content", {}).values()
            ]
            for content in (*body.values(), *answers):
                for example in examples(content):
                    error = next(self.validator(content["schema"]).iter_errors(example), None)
                    assert error is None, f"{method.upper()} {path}: an example is not valid: {error}"

    async def test_examples_are_answered(self, tmp_path: Path, write_model: Any, serve: Any) -> None:
        """Not those of paths with parameters, which name what need not be there."""
        model = write_model(n_vocab=50_000, n_embd=32, n_layer=1)  # examples may hold tokens of real models
        async with serve(model=model, plugin=self.plugins, **self.settings(tmp_path)) as client:
            for path, method, operation in self.operations(tmp_path):
                content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
                for example in [] if "{" in path else examples(content):
                    response = await client.request(method, path, json=example)
                    good = response.is_success or response.status_code == 501  # "not this server"
                    assert good, f"{method.upper()} {path} with {example}: {response.status_code} {response.text:.300}"

    async def test_errors_have_the_envelope(self, tmp_path: Path, serve: Any) -> None:
        async with serve(plugin=self.plugins, api_key=("key",), **self.settings(tmp_path)) as client:
            for path, method, operation in self.operations(tmp_path):
                where = path.replace("{", "").replace("}", "")  # any text for each parameter
                response = await client.request("TRACE", where)
                assert response.status_code == 405, f"TRACE {path} is {response.status_code} and not 405"
                assert method.upper() in response.headers["allow"], f"{path} allows {response.headers['allow']}"
                if operation.get("security") != []:
                    response = await client.request(method, where)
                    self.check_error(response, 401, f"{method.upper()} {path} without a key")
                if "requestBody" in operation:
                    key = {"Authorization": "Bearer key"}
                    response = await client.request(method, where, content=b'{"a": ', headers=key)
                    self.check_error(response, 400, f"{method.upper()} {path} with half a body")

    async def test_whatever_is_sent_answers_are_as_the_document_says(self, tmp_path: Path, serve_http: Any) -> None:
        """Schemathesis over its operations; see `llamafw.testing.contract`."""
        pytest.importorskip("schemathesis")
        paths = {path for path, _, _ in self.operations(tmp_path)}
        settings = self.settings(tmp_path)
        async with serve_http(plugin=self.plugins, api_key=(contract.KEY,), predict=4, **settings) as url:
            process = await asyncio.create_subprocess_exec(
                *contract.command(
                    self.document(tmp_path), tmp_path, url, sorted(paths), max_examples=self.max_examples
                ),
                env=contract.environment(contract.KEY),
                cwd=tmp_path,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await process.communicate()
        text = output.decode("utf-8", "replace")
        if process.returncode:
            print(text)
            pytest.fail("\n".join(contract.failures(text)) or text[-9000:])

    # --- how

    def operations(self, folder: Path) -> list[Operation]:
        """Return the plugin's operations."""
        plugins = load(self.plugins)
        settings, document = small_settings(**self.settings(folder)), self.document(folder)
        plugins.fill(endpoints := Registry("endpoint"), app=RunningApp(settings, plugins, document))
        mine = {name for name in endpoints if self.name in (owner := endpoints.owner(name), owner.partition(":")[0])}
        found = [one for one in spec.operations(document) if one[2]["operationId"] in mine]
        if not found:
            owners = sorted({endpoints.owner(name) for name in endpoints})
            pytest.fail(f"there is no endpoint of a plugin {self.name!r}; there are some of {', '.join(owners)}")
        return found

    def document(self, folder: Path) -> spec.Document:
        """Return the API document with the plugin in it."""
        return spec.merged_document(load(self.plugins), small_settings(**self.settings(folder)))

    def resolve(self, part: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a part of the document refers to, or the part."""
        while "$ref" in part:
            target: Any = merged(self.plugins)
            for name in part["$ref"].removeprefix("#/").split("/"):
                target = target[name]
            part = target
        return part

    def parts(self, thing: Any, place: tuple[str, ...], seen: set[str]) -> Iterator[tuple[tuple[str, ...], Any]]:
        """Yield every mapping below ``thing``, through references that the plugin's own parts of the document make."""
        if isinstance(thing, Mapping):
            if "$ref" in thing:
                if thing["$ref"] not in seen:
                    seen.add(thing["$ref"])
                    yield from self.parts(self.resolve(thing), (*place, thing["$ref"].rpartition("/")[2]), seen)
                return
            yield place, thing
            for name, part in thing.items():
                if name not in ("example", "examples", "default", "enum"):
                    yield from self.parts(part, (*place, name), seen)
        elif isinstance(thing, list):
            for part in thing:
                yield from self.parts(part, place, seen)

    def validator(self, schema: Any) -> jsonschema_rs.Draft4Validator:
        """Return a validator for a schema of the document."""
        return spec.validator(schema, merged(self.plugins))

    def check_error(self, response: Any, status: int, what: str) -> None:
        """Fail unless a response is an error of this status in the envelope."""
        assert response.status_code == status, f"{what} is {response.status_code} and not {status}"
        error = response.json().get("error", {})
        assert error.get("code") == status, f"{what}: the error's code is {error.get('code')}"
        assert isinstance(error.get("message"), str), f"{what}: there is no message"
        assert isinstance(error.get("type"), str), f"{what}: there is no type"


@cache
def merged(plugins: tuple[str, ...]) -> spec.Document:
    """Return the API document as the settings leave it."""
    return spec.merged_document(load(plugins), small_settings())


def examples(content: Mapping[str, Any]) -> list[Any]:
    """Return the examples of a request's or response's content."""
    named = [example["value"] for example in content.get("examples", {}).values() if "value" in example]
    return [*named, content["example"]] if "example" in content else named
