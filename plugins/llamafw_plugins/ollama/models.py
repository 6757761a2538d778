"""The operations of Ollama's API that list and change models.

This server has one model, which cannot be changed while it runs.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
from starlette.responses import PlainTextResponse, Response

from llamafw import App, Call, LoadedModel, NotSupported, RequestError, json_lines
from llamafw_plugins.endpoints.infill import REQUIRED_TOKENS
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.endpoints.server import count_parameters, ftype_name
from llamafw_plugins.ollama.errors import error_lines

API_VERSION = "0.40.12"
"""The version of Ollama whose API this is. Clients compare it with the version that they need."""

LATEST = ":latest"  # the tag of names without one
NEVER = "9999-12-31T23:59:59Z"  # when the model is unloaded
N_PARAMETERS_UNITS = ((1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K"))
MAX_SHOWN_NAME = 100  # characters of an unknown name that an error message repeats


class OllamaModelNotFound(RequestError):
    """The server has no model with the requested name."""

    status = 404
    type = "not_found_error"


class OllamaModelEndpoints:
    """The operations that describe the model, and those that would change it."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.started = datetime.now(UTC)

    async def list_all(self, call: Call) -> JSON:
        """Return a list with the server's models, each once under each of its names."""
        return {"models": [self._entry(loaded, name) for name, loaded in self._models().items()]}

    async def list_running(self, call: Call) -> JSON:
        """Return a list with the server's models, which are always in memory, each under its first name."""
        running = {"expires_at": NEVER, "size_vram": 0}
        return {
            "models": [
                {**self._entry(loaded, loaded.name), **running, "context_length": loaded.engine.n_ctx}
                for loaded in self.app.loaded.all
            ]
        }

    async def show(self, call: Call) -> JSON:
        """Return what the file says about the model, and what the model can do."""
        loaded = self._find(call)
        metadata = loaded.model.metadata
        info = {name: _plain_value(value, verbose=bool(call.body.get("verbose"))) for name, value in metadata.items()}
        return {
            "modelfile": f"FROM {loaded.name}\n",
            "parameters": f"{'num_ctx':<30} {loaded.engine.n_ctx}",
            "template": loaded.chat.source,
            "license": str(metadata.get("general.license", "")),
            "details": _details(loaded),
            "model_info": {**info, **_sizes(loaded)},
            "capabilities": self._capabilities(loaded),
            "modified_at": self._modified_at(loaded),
        }

    async def pull(self, call: Call) -> Any:
        """Report success for the model that the server has; refuse others."""
        self._find(call, "it cannot download others; stop it and start `llamafw serve` with another model")
        lines = [{"status": "pulling manifest"}, {"status": "success"}]
        return lines[-1] if call.body.get("stream") is False else json_lines(_each(lines), on_error=error_lines)

    async def version(self, call: Call) -> JSON:
        """Return the version of the API."""
        return {"version": API_VERSION}

    async def root(self, call: Call) -> Response:
        """Say that the server runs, in the words that clients expect."""
        return PlainTextResponse("Ollama is running")

    async def refuse(self, call: Call) -> Any:
        """Refuse to change models."""
        raise NotSupported(f"This server has one model, {self.app.loaded.name!r}, which clients cannot change")

    def _find(self, call: Call, advice: str = "") -> LoadedModel:
        """Return the model if the request names it or none; RequestError if it names another one."""
        name = call.body.get("model") or call.body.get("name")
        models = {tagged(known).casefold(): loaded for known, loaded in self._models().items()}
        if not name:
            return self.app.loaded
        if (found := models.get(tagged(name).casefold())) is None:
            known = " and ".join(repr(tagged(loaded.name)) for loaded in self.app.loaded.all)
            noun = "the model" if len(self.app.loaded.all) == 1 else "the models"
            message = f"model '{name[:MAX_SHOWN_NAME]}' not found; this server has {noun} {known}"
            raise OllamaModelNotFound(f"{message}, and {advice}" if advice else message, param="model")
        return found

    def _models(self) -> dict[str, LoadedModel]:
        """Return the models by their names, the first model's before others'; it may have several."""
        first, *others = self.app.loaded.all
        names = dict.fromkeys((first.name, *self.app.settings.alias), first)
        return names | {loaded.name: loaded for loaded in others}

    def _entry(self, loaded: LoadedModel, name: str) -> JSON:
        return {
            "name": tagged(name),
            "model": tagged(name),
            "modified_at": self._modified_at(loaded),
            "size": loaded.model.n_bytes,
            "digest": _digest(loaded),
            "details": _details(loaded),
        }

    def _modified_at(self, loaded: LoadedModel) -> str:
        """Return when the file was changed; for a model without a file, when the server started."""
        try:
            time = datetime.fromtimestamp(loaded.model.path.stat().st_mtime, UTC)
        except OSError:
            time = self.started
        return time.isoformat().replace("+00:00", "Z")

    def _capabilities(self, loaded: LoadedModel) -> list[str]:
        if self.app.settings.embedding or loaded is not self.app.loaded:
            return ["embedding"]
        has_infill = all(key in loaded.tokenizer.fim for key in REQUIRED_TOKENS)
        names = {
            "completion": True,
            "tools": loaded.tool_parser is not None,
            "insert": has_infill,
            "thinking": loaded.chat_capabilities.reasoning is not None,
        }
        return [name for name, has in names.items() if has]


def tagged(name: str) -> str:
    """Return a name with a tag."""
    return name if ":" in name else name + LATEST


async def _each(items: list[JSON]) -> AsyncIterator[JSON]:
    for item in items:
        yield item


def _details(loaded: LoadedModel) -> JSON:
    family = str(loaded.model.metadata.get("general.architecture", ""))
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": _short_number(count_parameters(loaded)),
        "quantization_level": _quantization(loaded),
    }


def _sizes(loaded: LoadedModel) -> JSON:
    """Return the number of parameters, and the length of the context: the file's, or this server's if it is shorter.

    Clients cannot change the server's, and fill as much as they read here.
    """
    sizes: JSON = {"general.parameter_count": count_parameters(loaded)}
    name = f"{loaded.model.metadata.get('general.architecture')}.context_length"
    if name in loaded.model.metadata:
        sizes[name] = min(int(loaded.model.metadata[name]), loaded.engine.n_ctx)
    return sizes


def _short_number(n: int) -> str:
    unit, letter = next(((unit, letter) for unit, letter in N_PARAMETERS_UNITS if n >= unit), (1, ""))
    return f"{n / unit:.1f}{letter}" if letter else str(n)


def _quantization(loaded: LoadedModel) -> str:
    """Return the name of the file's type, such as ``Q4_K_M``; without one, the type of most of its bytes."""
    if name := ftype_name(loaded):
        return name
    sizes = Counter[str]()
    for tensor in loaded.model.tensors.values():
        sizes[tensor.type_name] += tensor.n_bytes
    return sizes.most_common(1)[0][0] if sizes else "unknown"


def _digest(loaded: LoadedModel) -> str:
    """Return a hash that identifies the model; that of a large file's contents would take too long."""
    tensors = [(tensor.name, tensor.shape, tensor.type_name) for tensor in loaded.model.tensors.values()]
    return hashlib.sha256(orjson.dumps([loaded.name, loaded.model.n_bytes, tensors])).hexdigest()


def _plain_value(value: Any, *, verbose: bool) -> Any:
    """Return a value of the metadata as JSON has it; arrays, which may be long, only if ``verbose``."""
    if isinstance(value, (list, np.ndarray)):
        return (value.tolist() if isinstance(value, np.ndarray) else value) if verbose else None
    return value.item() if isinstance(value, np.generic) else value
