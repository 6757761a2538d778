"""Write a request as a command of curl, as Python and as JavaScript.

The Python samples need the package httpx. The JavaScript samples are modules, for browsers and Node.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Answer = Literal["json", "text", "events", "lines"]
"""What the response is: JSON, text, server-sent events, or lines of JSON."""

_WIDTH = 92  # characters; longer values are written on several lines
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_PYTHON, _JAVASCRIPT = {True: "True", False: "False", None: "None"}, {True: "true", False: "false", None: "null"}


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """A request, as samples show it.

    Attributes
    ----------
    method : str
        The method, in upper case.
    url : str
        The whole URL, with the query.
    body : Any
        The body, a value of JSON; None if there is none.
    key : str or None
        An API key; None if the request needs none.
    answer : "json", "text", "events" or "lines"
        What the response is.
    """

    method: str
    url: str
    body: Any = None
    key: str | None = None
    answer: Answer = "json"


def curl(request: SampleRequest) -> str:
    """Return a command for a POSIX shell."""
    parts = [f"curl {shlex.quote(request.url)}"]
    if request.method != ("GET" if request.body is None else "POST"):
        parts[0] = f"curl -X {request.method} {shlex.quote(request.url)}"
    if request.answer in ("events", "lines"):
        parts[0] = parts[0].replace("curl", "curl --no-buffer", 1)

    if request.key is not None:
        parts.append(f"-H {shlex.quote(f'Authorization: Bearer {request.key}')}")
    if request.body is not None:
        parts.append(f"-d {shlex.quote(_literal(request.body, _JAVASCRIPT, step=2))}")
    return " \\\n  ".join(parts)


def python(request: SampleRequest) -> str:
    """Return a Python program that prints the response."""
    arguments = [json.dumps(request.url)]
    if request.key is not None:
        arguments.append(f'headers={{"Authorization": {json.dumps("Bearer " + request.key)}}}')
    if request.body is not None:
        arguments.append(f"json={_literal(request.body, _PYTHON, step=4, indent=4)}")
    arguments.append("timeout=None")

    method = request.method.lower()
    if request.answer in ("events", "lines"):
        call = _call("httpx.stream", [f'"{request.method}"', *arguments])
        show = "    for line in response.iter_lines():\n        "
        show += 'if line.startswith("data: "):\n            print(line.removeprefix("data: "))'
        if request.answer == "lines":
            show = "    for line in response.iter_lines():\n        print(line)"
        return f"import httpx\n\nwith {call} as response:\n{show}\n"

    if request.body is not None and method not in ("post", "put", "patch"):  # only these functions of httpx take a body
        call = _call("httpx.request", [f'"{request.method}"', *arguments])
    else:
        call = _call(f"httpx.{method}", arguments)
    shown = "response.json()" if request.answer == "json" else "response.text"
    return f"import httpx\n\nresponse = {call}\nprint({shown})\n"


def javascript(request: SampleRequest) -> str:
    """Return a JavaScript module that logs the response."""
    options = []
    if request.method != "GET":
        options.append(f'method: "{request.method}"')
    if request.key is not None:
        options.append(f"headers: {{ Authorization: {json.dumps('Bearer ' + request.key)} }}")
    if request.body is not None:
        options.append(f"body: JSON.stringify({_literal(request.body, _JAVASCRIPT, step=2, indent=2, bare_keys=True)})")

    url = json.dumps(request.url)
    arguments = f"{url}, {{\n" + "".join(f"  {option},\n" for option in options) + "}" if options else url
    show = {
        "json": "console.log(await response.json());",
        "text": "console.log(await response.text());",
    }.get(
        request.answer,
        "for await (const text of response.body.pipeThrough(new TextDecoderStream())) {\n  console.log(text);\n}",
    )
    return f"const response = await fetch({arguments});\n{show}\n"


LANGUAGES: Mapping[str, Callable[[SampleRequest], str]] = {"curl": curl, "Python": python, "JavaScript": javascript}
"""The name of each language, and the function that writes its samples."""


def _call(function: str, arguments: list[str]) -> str:
    """Return a call in Python, on one line if it is short."""
    line = f"{function}({', '.join(arguments)})"
    if len(line) <= _WIDTH and "\n" not in line:
        return line
    return f"{function}(\n" + "".join(f"    {argument},\n" for argument in arguments) + ")"


def _literal(value: Any, names: Mapping[Any, str], *, step: int, indent: int = 0, bare_keys: bool = False) -> str:
    """Write a value of JSON as source code.

    Strings and numbers are the same in JSON, Python and JavaScript.

    Parameters
    ----------
    value : Any
        The value.
    names : mapping
        The language's names of true, false and null.
    step : int
        Spaces of one level.
    indent : int
        Spaces before the line on which the value begins.
    bare_keys : bool
        Write keys that are identifiers without quotation marks, for JavaScript.
    """
    if value is None or isinstance(value, bool):
        return names[value]
    if not isinstance(value, dict | list) or not value:
        return json.dumps(value, ensure_ascii=False)

    def parts(indent: int) -> list[str]:
        if isinstance(value, list):
            return [_literal(item, names, step=step, indent=indent, bare_keys=bare_keys) for item in value]
        return [
            (key if bare_keys and _IDENTIFIER.fullmatch(key) else json.dumps(key, ensure_ascii=False))
            + f": {_literal(item, names, step=step, indent=indent, bare_keys=bare_keys)}"
            for key, item in value.items()
        ]

    opening, closing = "[]" if isinstance(value, list) else "{}"
    padding = " " if bare_keys and isinstance(value, dict) else ""
    line = opening + padding + ", ".join(parts(indent)) + padding + closing
    if indent + len(line) <= _WIDTH - 12 and "\n" not in line:
        return line
    space, comma = " " * (indent + step), "," if names is _PYTHON or bare_keys else ""
    return (
        opening + "\n" + ",\n".join(space + part for part in parts(indent + step)) + f"{comma}\n{' ' * indent}{closing}"
    )
