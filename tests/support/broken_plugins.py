"""Source code of plugins that fail, and helpers that read how a server reports the failures."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

IMPORT = "from llamafw import hookimpl\n"

SAMPLER = """
class Bad:
    options = {"bad": {"type": "string", "default": "", "description": "where to fail"}}
    truncates = False
    def __init__(self, where): self.where = where
    @classmethod
    def create(cls, options, context):
        if options["bad"] == "create": raise ZeroDivisionError("secret")
        return cls(options["bad"]) if options["bad"] else None
    def apply(self, candidates):
        if self.where == "apply": raise ZeroDivisionError("secret")
    def accept(self, token):
        if self.where == "accept": raise ZeroDivisionError("secret")

@hookimpl
def register_samplers(register): register("bad", Bad)
"""
"""A sampler that fails in the method that the request field ``bad`` names."""

OPERATION = """
API = {"paths": {"/bad": {"get": {"operationId": "getBad", "security": [], "summary": "x", "responses": {
    "200": {"description": "ok", "content": {"application/json": {"schema": {"type": "object"}}}},
    "500": {"$ref": "#/components/responses/InternalError"}}}}}}

@hookimpl
def extend_openapi(): return API

@hookimpl
def register_endpoints(register, app): register("getBad", bad)

async def bad(call): 1 / 0
"""
"""``GET /bad``, whose endpoint fails."""

BACKEND = """
from llamafw.testing.backend import DeterministicBackend

class Bad(DeterministicBackend):
    def forward(self, batch):
        if len(batch.positions) and batch.positions[-1] > 20: raise MemoryError("secret")
        return super().forward(batch)

@hookimpl
def register_backends(register): register("bad", Bad)
"""
"""A backend that fails when a sequence is longer than 20 tokens."""

BODY = {"prompt": "Hello", "n_predict": 4, "seed": 1}
"""A body for ``POST /completion``."""


def hook_code(name: str, parameters: str = "", body: str = "1 / 0") -> str:
    """Return the source code of a hook implementation.

    It fails unless another body is given.
    """
    return f"@hookimpl\ndef {name}({parameters}): {body}\n"


async def failure_counts(client: httpx.AsyncClient) -> dict[tuple[str, str], float]:
    """Return how many failures the server's metrics report for each plugin and place."""
    text = (await client.get("/metrics")).text
    family = next(each for each in text_string_to_metric_families(text) if each.name == "llamafw_plugin_failures")
    return {(sample.labels["plugin"], sample.labels["place"]): sample.value for sample in family.samples}


def plugin_error(response: httpx.Response, name: str) -> str:
    """Check that an error response names the plugin that failed but not the cause, and return its message."""
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"], error["plugin"]) == (500, 500, "plugin_error", name)
    assert "secret" not in response.text
    return str(error["message"])
