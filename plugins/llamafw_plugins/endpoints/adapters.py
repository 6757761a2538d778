"""The adapters of the model: list them, set their scales, load and unload them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llamafw import AdapterControl, AdapterKind, AdapterStatus, App, Call, LoadedModel, NotSupported, RequestError
from llamafw_plugins.endpoints.response_json import JSON


class AdapterEndpoints:
    """The operations on LoRA adapters and control vectors."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def list_lora(self, call: Call) -> list[JSON]:
        """Return the LoRA adapters and their scales."""
        control = find_control(self.app.loaded)
        return [lora_json(one) for one in (control.status("lora") if control else ())]

    async def list_control_vectors(self, call: Call) -> list[JSON]:
        """Return the control vectors and their scales."""
        control = find_control(self.app.loaded)
        found = control.status("control_vectors") if control else ()
        return [{"id": one.id, "path": one.path, "scale": one.scale} for one in found]

    async def set_lora(self, call: Call) -> JSON:
        """Set the scales of LoRA adapters for later requests."""
        return self._set_scales(call, "lora")

    async def set_control_vectors(self, call: Call) -> JSON:
        """Set the scales of control vectors for later requests."""
        return self._set_scales(call, "control_vectors")

    def _set_scales(self, call: Call, kind: AdapterKind) -> JSON:
        chosen, control = read_scales(call.body), find_control(self.app.loaded)
        if control is not None:
            control.set_scales(chosen, kind)
        elif chosen:
            raise RequestError(f"adapter {chosen[0][0]} does not exist: none is loaded", param="0.id")
        return {"success": True}

    async def load(self, call: Call) -> JSON:
        """Load a LoRA adapter."""
        control, scale = self._changeable(), call.body.get("scale")
        path = find_file(call.body["path"], self.app.settings.lora_folder)
        return lora_json(await control.load(path, 1.0 if scale is None else float(scale)))

    async def unload(self, call: Call) -> JSON:
        """Unload a LoRA adapter."""
        await self._changeable().unload(int(call.body["id"]))
        return {"success": True}

    def _changeable(self) -> AdapterControl:
        if not self.app.settings.props:
            raise NotSupported("This server does not support loading adapters. Start it with `--props`")
        control = find_control(self.app.loaded)
        if control is None:
            raise NotSupported("the engine of this model cannot have adapters")
        return control


def find_file(name: str, folder: str | None) -> Path:
    """Return the path of an adapter that a client names.

    A client must not learn which other files exist, or make the server read them. Links in the folder are followed,
    because only users that can write to the folder can create them.

    Parameters
    ----------
    name : str
        A path, relative to the folder or within it.
    folder : str, optional
        The folder of ``--lora-folder``.

    Raises
    ------
    NotSupported
        ``folder`` is None.
    RequestError
        The path leads out of the folder.
    """
    if folder is None:
        raise NotSupported("This server does not support loading adapters. Start it with `--lora-folder`")
    base = Path(folder).expanduser().absolute()
    path = Path(os.path.normpath(base / name))
    if "\0" in name or not path.is_relative_to(base):
        raise RequestError("path must lead to a file or folder within the folder of --lora-folder", param="path")
    return path


def lora_json(one: AdapterStatus) -> JSON:
    """Return a LoRA adapter in llama-server's format."""
    texts = {"task_name": one.task_name, "prompt_prefix": one.prompt_prefix}
    return {"id": one.id, "path": one.path, "scale": one.scale, **texts}


def find_control(loaded: LoadedModel) -> AdapterControl | None:
    """Return what changes the adapters of a model; None if its engine cannot have adapters."""
    return getattr(loaded.engine, "adapters", None)


def chosen_scales(body: Mapping[str, Any], field: str, loaded: LoadedModel) -> tuple[tuple[int, float], ...] | None:
    """Return the adapters that a request chooses; None if it leaves that to the server.

    Raises
    ------
    RequestError
        The engine cannot have adapters. If it can, it checks the ids itself.
    """
    given = body.get(field)
    if given is None:
        return None
    chosen = read_scales(given)
    if chosen and find_control(loaded) is None:
        raise RequestError(f"adapter {chosen[0][0]} does not exist: none is loaded", param=f"{field}.0.id")
    return chosen


def read_scales(given: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, float], ...]:
    """Return ids and scales; of equal ids, the last one counts."""
    return tuple({int(one["id"]): float(one["scale"]) for one in given}.items())
