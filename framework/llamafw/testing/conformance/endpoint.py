"""The rules for endpoints: described operations, working examples, uniform errors, responses as documented."""

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
from llamafw.server.error_formats import ErrorFormats
from llamafw.server.running_app import RunningApp
from llamafw.testing import contract
from llamafw.testing.conformance.base import Conformance, load
from llamafw.testing.plugin import small_settings

Operation = tuple[str, str, dict[str, Any]]
"""Path, method and operation object of the API document."""

SERVER = "llamafw serve --validate-responses"  # a command that starts a server on which failures can be reproduced
SERVER_URL = "http://127.0.0.1:8080"
NOT_SCHEMAS = ("example", "examples", "default", "enum")  # keys whose values are data


class EndpointConformance(Conformance):
    """Subclass it and give the plugin's ``name``: its distribution, or what ``llamafw plugins`` lists.

    Attributes
    ----------
    max_examples : int
        Number of requests that schemathesis makes per operation and phase.
    """

    kind = "endpoint"
    max_examples: ClassVar[int] = 10

    def settings(self, folder: Path) -> Mapping[str, Any]:
        """Return settings of servers with these operations: ``{"extra": {…}}`` for flags of plugins.

        Parameters
        ----------
        folder : Path
            An empty folder, for files that the operations need.
        """
        return {}

    def test_operations_are_described(self, tmp_path: Path) -> None:
        """Operations have a summary, an example of the body, described parameters, and every status that can occur."""
        for path, method, operation in self.operations(tmp_path):
            where, responses = f"{method.upper()} {path}", operation.get("responses", {})
            assert operation.get("summary"), f"{where} has no summary"

            expected = {"500"}
            if "requestBody" in operation:
                expected |= {"400", "413"}
                for media_type, content in operation["requestBody"]["content"].items():
                    assert content.get("example") or content.get("examples"), f"{where}: {media_type} has no example"
            parameters = [self.resolve(parameter) for parameter in operation.get("parameters", [])]
            if any(map(can_be_invalid, parameters)):
                expected.add("400")
            if operation.get("security") != []:
                expected.add("401")
            undocumented = ", ".join(sorted(expected - set(responses)))
            assert not undocumented, f"{where} does not document the responses {undocumented}"
            assert any(status < "4" for status in responses), f"{where} does not document a successful response"

            for parameter in parameters:
                assert parameter.get("description"), f"{where}: the parameter {parameter['name']} has no description"

    def test_integers_have_bounds(self, tmp_path: Path) -> None:
        """Every integer in requests and responses has a minimum and a maximum."""
        for path, method, operation in self.operations(tmp_path):
            for place, part in self.parts(operation, (), set()):
                if part.get("type") == "integer" and "enum" not in part:
                    where = f"{method.upper()} {path}: {'.'.join(place)}"
                    assert {"minimum", "maximum"} <= set(part), f"{where} is an integer without minimum and maximum"

    def test_examples_are_valid(self, tmp_path: Path) -> None:
        """All examples of requests and responses are valid against their schemas."""
        for path, method, operation in self.operations(tmp_path):
            requests = operation.get("requestBody", {}).get("content", {})
            responses = [
                content
                for response in operation["responses"].values()
                for content in self.resolve(response).get("content", {}).values()
            ]
            for content in (*requests.values(), *responses):
                for example in examples(content):
                    error = next(self.validator(content["schema"]).iter_errors(example), None)
                    where = f"{method.upper()} {path}: the example {example}"
                    assert error is None, f"{where} is not valid: {describe_invalid_part(error)}"

    async def test_examples_are_answered(self, tmp_path: Path, write_model: Any, serve: Any) -> None:
        """Servers answer the examples of requests whose path has no parameters."""
        model = write_model(n_vocab=50_000, n_embd=32, n_layer=1)  # examples may contain tokens of real models
        async with serve(model=model, plugin=self.plugins, **self.settings(tmp_path)) as client:
            for path, method, operation in self.operations(tmp_path):
                if "{" in path:  # it may name something that does not exist
                    continue
                content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
                for example in examples(content):
                    response = await client.request(method, path, json=example)
                    answered = response.is_success or response.status_code == 501  # 501: not with this model
                    where = f"{method.upper()} {path} with the example {example}"
                    assert answered, f"{where} is {response.status_code}: {response.text:.300}"

    async def test_errors_have_the_envelope(self, tmp_path: Path, serve: Any) -> None:
        """A wrong method is a 405, a missing key a 401, and malformed JSON a 400, in the error envelope.

        On paths with an error format of the plugin's own, the bodies are those of the document.
        """
        async with serve(plugin=self.plugins, api_key=("key",), **self.settings(tmp_path)) as client:
            for path, method, operation in self.operations(tmp_path):
                url = path.replace("{", "").replace("}", "")  # any text may stand for a parameter
                response = await client.request("TRACE", url)
                assert response.status_code == 405, f"TRACE {path} is {response.status_code}, expected 405"
                allowed = response.headers["allow"]
                assert method.upper() in allowed, f"{path}: the header Allow is {allowed!r}, without {method.upper()}"

                if operation.get("security") != []:
                    response = await client.request(method, url)
                    self.check_error(response, 401, f"{method.upper()} {path} without a key", path, operation)
                if "requestBody" in operation:
                    key = {"Authorization": "Bearer key"}
                    response = await client.request(method, url, content=b'{"a": ', headers=key)
                    self.check_error(response, 400, f"{method.upper()} {path} with malformed JSON", path, operation)

    async def test_responses_match_the_document(self, tmp_path: Path, serve_http: Any) -> None:
        """Responses to all requests that schemathesis makes match the API document."""
        pytest.importorskip("schemathesis")
        paths = sorted({path for path, _, _ in self.operations(tmp_path)})
        settings = self.settings(tmp_path)

        async with serve_http(plugin=self.plugins, api_key=(contract.KEY,), predict=4, **settings) as url:
            command = contract.command(self.document(tmp_path), tmp_path, url, paths, max_examples=self.max_examples)
            process = await asyncio.create_subprocess_exec(
                *command,
                env=contract.environment(contract.KEY),
                cwd=tmp_path,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await process.communicate()

        text = output.decode("utf-8", "replace").replace(url, SERVER_URL)  # this server has ended
        if process.returncode:
            print(text)
            pytest.fail("\n".join(contract.failures(text, SERVER)) or text[-9000:])

    # --- helpers

    def operations(self, folder: Path) -> list[Operation]:
        """Return the plugin's operations; fail if it has none."""
        plugins = load(self.plugins)
        settings, document = small_settings(**self.settings(folder)), self.document(folder)
        plugins.fill(endpoints := Registry("endpoint"), app=RunningApp(settings, plugins, document))
        owners = {name: endpoints.owner(name) for name in endpoints}
        own = {name for name, owner in owners.items() if self.name in (owner, owner.partition(":")[0])}
        operations = [item for item in spec.operations(document) if item[2]["operationId"] in own]
        if not operations:
            known = ", ".join(sorted(set(owners.values())))
            pytest.fail(f"no plugin {self.name!r} registers an endpoint; plugins that do: {known}")
        return operations

    def document(self, folder: Path) -> spec.Document:
        """Return the API document with the plugin's operations."""
        return spec.merged_document(load(self.plugins), small_settings(**self.settings(folder)))

    def resolve(self, part: Mapping[str, Any]) -> Mapping[str, Any]:
        """Follow the references of a part of the document."""
        while "$ref" in part:
            target: Any = merged(self.plugins)
            for name in part["$ref"].removeprefix("#/").split("/"):
                target = target[name]
            part = target
        return part

    def parts(self, part: Any, place: tuple[str, ...], seen: set[str]) -> Iterator[tuple[tuple[str, ...], Any]]:
        """Yield the place and the content of every mapping in ``part``, each reference followed once."""
        if isinstance(part, Mapping):
            if "$ref" in part:
                if part["$ref"] not in seen:
                    seen.add(part["$ref"])
                    yield from self.parts(self.resolve(part), (*place, part["$ref"].rpartition("/")[2]), seen)
                return
            yield place, part
            for name, value in part.items():
                if name not in NOT_SCHEMAS:
                    yield from self.parts(value, (*place, name), seen)
        elif isinstance(part, list):
            for value in part:
                yield from self.parts(value, place, seen)

    def validator(self, schema: Any) -> jsonschema_rs.Draft4Validator:
        """Return a validator for a schema of the document."""
        return spec.validator(schema, merged(self.plugins))

    def check_error(self, response: Any, status: int, request: str, path: str, operation: Mapping[str, Any]) -> None:
        """Fail unless a response is an error with this status in the format of its path.

        ``request`` begins the message.
        """
        assert response.status_code == status, f"{request} is {response.status_code}, expected {status}"
        if ErrorFormats(load(self.plugins)).of(path) is not None:
            content = self.resolve(operation["responses"][str(status)])["content"]["application/json"]
            error = next(self.validator(content["schema"]).iter_errors(response.json()), None)
            assert error is None, f"{request}: the error is not as documented: {describe_invalid_part(error)}"
            return

        error = response.json().get("error", {})
        assert error.get("code") == status, f"{request}: error.code is {error.get('code')!r}, expected {status}"
        for field in ("message", "type"):
            assert isinstance(error.get(field), str), f"{request}: error.{field} is {error.get(field)!r}, expected text"


@cache
def merged(plugins: tuple[str, ...]) -> spec.Document:
    """Return the API document with the plugins' default settings."""
    return spec.merged_document(load(plugins), small_settings())


def can_be_invalid(parameter: Mapping[str, Any]) -> bool:
    """Return whether a server can reject a value of a parameter, or a request without it.

    Any text is a valid segment of a path.
    """
    schema = parameter["schema"]
    is_any_text = schema.get("type") == "string" and not {"enum", "pattern", "minLength", "maxLength"} & set(schema)
    return not is_any_text or (parameter["in"] != "path" and bool(parameter.get("required")))


def describe_invalid_part(error: jsonschema_rs.ValidationError) -> str:
    """Return the path of the invalid part of a value, and why it is invalid."""
    path = ".".join(map(str, error.instance_path))
    return f"{path}: {error.message}" if path else str(error.message)


def examples(content: Mapping[str, Any]) -> list[Any]:
    """Return the examples of a request's or response's content."""
    named = [example["value"] for example in content.get("examples", {}).values() if "value" in example]
    return [*named, content["example"]] if "example" in content else named
