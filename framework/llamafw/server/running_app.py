"""The running server, as endpoints and hooks see it.

Independent of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from llamafw import spec
from llamafw.engine.load import make_system_prompt
from llamafw.errors import NotSupported, Unavailable
from llamafw.interfaces import SamplerPlugin
from llamafw.plugins import Plugins, public_name
from llamafw.serving import LoadedModel
from llamafw.settings import Settings
from llamafw.types import GenerateRequest, PluginInfo


class RunningApp:
    """Implements `llamafw.App`.

    `ModelLoader` sets the model when it is loaded.
    """

    def __init__(self, settings: Settings, plugins: Plugins, document: dict[str, Any]) -> None:
        self.settings = settings
        self.plugins = plugins
        self.describe(document)
        self.samplers: Mapping[str, SamplerPlugin] = plugins.registry("sampler")
        self.model: LoadedModel | None = None

    def describe(self, document: dict[str, Any]) -> None:
        """Set the API document."""
        self.document = document
        self.document_json = orjson.dumps(document)  # for GET /openapi.json

    def recommend_defaults(self, defaults: Mapping[str, Any]) -> None:
        """Describe the defaults of request fields that the model recommends."""
        if defaults:
            spec.set_recommended_defaults(self.document, defaults, self.settings)
            self.describe(self.document)

    @property
    def installed(self) -> Sequence[PluginInfo]:
        """All plugins that were found, in the order in which they were loaded."""
        return [
            replace(info, name=public_name(info.name), distribution=public_name(info.distribution))
            for info in self.plugins.listing()
        ]

    @property
    def failures(self) -> Mapping[tuple[str, str], int]:
        """The number of failures of plugins since the start, by plugin and place."""
        return {(public_name(name), place): n for (name, place), n in self.plugins.failures.counts.items()}

    @property
    def loaded(self) -> LoadedModel:
        """The model.

        Raises
        ------
        Unavailable
            The model is still loading.
        """
        if self.model is None:
            raise Unavailable("Loading model")
        return self.model

    async def set_system_prompt(self, text: str) -> None:
        """Put ``text`` before every prompt from now on."""
        prompt = await asyncio.to_thread(make_system_prompt, text, self.loaded.tokenizer)  # takes 0.4 s for a megabyte
        self.model = replace(self.loaded, system_prompt=prompt)

    def prepare(self, body: Mapping[str, Any], prompt: Sequence[int]) -> GenerateRequest:
        """Return the `GenerateRequest` for a validated native body and its tokenised prompt.

        The hook ``prepare_request`` makes it.
        """
        request: GenerateRequest | None = self.plugins.hook.prepare_request(body=body, prompt=prompt, app=self)
        if request is None:
            raise NotSupported("no plugin of this server prepares requests")
        return request
