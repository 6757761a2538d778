"""GET /slots and POST /slots/{id_slot}: show the state of the slots; save, restore and erase their caches."""

from __future__ import annotations

import os
import time
import unicodedata
from pathlib import Path

from llamafw import App, Call, GenerateRequest, NotSupported, RequestError, SettingsError, SlotStatus, Unavailable
from llamafw_plugins.endpoints.response_json import JSON, settings_json, stopped_json

STATES = {"idle": 0, "prompt": 1, "generating": 3}  # llama-server's numbers; its 2, prompt done, does not occur here
TEXT_FIELDS = ("stop", "grammar", "logit_bias")  # of the settings: what clients wrote, shown only with `--slots`
FORBIDDEN_CHARACTERS = frozenset('/\\:*?"<>|\uff0e\u2215\u2216\ufffd\ufeff')
MAX_NAME_BYTES = 255


class SlotEndpoints:
    """The operations `getSlots` and `changeSlot`."""

    def __init__(self, app: App) -> None:
        self.app = app
        path = app.settings.slot_save_path
        self.folder = None if path is None else Path(path).expanduser()
        if self.folder is not None:
            create_folder(self.folder)

    async def list(self, call: Call) -> list[JSON]:
        """Return what each slot is doing."""
        if self.app.settings.slots is False:
            raise NotSupported("This server does not support slots endpoint. Start it without `--no-slots`")
        slots = self.app.loaded.engine.slots()
        if "fail_on_no_slot" in call.query and all(slot.state != "idle" for slot in slots):
            raise Unavailable("no slot available")
        return [self._slot_json(slot) for slot in slots]

    async def change(self, call: Call) -> JSON:
        """Save, restore or erase a slot's cache."""
        if self.folder is None:
            raise NotSupported("This server does not support slots action. Start it with `--slot-save-path`")
        engine, action, slot = self.app.loaded.engine, call.query["action"], int(call.path["id_slot"])
        if action == "erase":
            return {"id_slot": slot, "n_erased": await engine.erase_slot(slot)}

        started = time.perf_counter()
        name = check_file_name((call.body or {}).get("filename"))
        method = engine.save_slot if action == "save" else engine.restore_slot
        n_tokens, n_bytes = await method(slot, self.folder / name)
        timings = {f"{action}_ms": (time.perf_counter() - started) * 1e3}
        tokens_key, bytes_key = ("n_saved", "n_written") if action == "save" else ("n_restored", "n_read")
        return {"id_slot": slot, "filename": name, tokens_key: n_tokens, bytes_key: n_bytes, "timings": timings}

    def _slot_json(self, slot: SlotStatus) -> JSON:
        request = slot.request or self.app.prepare({}, ())
        settings = settings_json(request, self.app.loaded, stream=False)
        shows_text = bool(self.app.settings.slots)
        if not shows_text:
            settings = {name: value for name, value in settings.items() if name not in TEXT_FIELDS}

        return {
            **settings,
            "params": settings,
            "id": slot.id,
            "id_task": slot.id_task,
            "state": STATES[slot.state],
            "is_processing": slot.state != "idle",
            "speculative": slot.speculative,
            **({"prompt": self._prompt(slot.request)} if shows_text else {}),
            "n_prompt_tokens": slot.n_prompt,
            "n_prompt_tokens_processed": slot.n_prompt_processed,
            "n_prompt_tokens_cache": slot.n_cached,
            "n_past": slot.n_tokens,
            "next_token": [
                {
                    "has_next_token": slot.state != "idle",
                    "n_remain": slot.n_remain,
                    "n_decoded": slot.n_decoded,
                    **stopped_json(slot.stop_type),
                    **({"stopping_word": slot.stopping_word} if shows_text else {}),
                }
            ],
        }

    def _prompt(self, request: GenerateRequest | None) -> str | None:
        return None if request is None else self.app.loaded.tokenizer.decode(request.prompt, special=True)


def create_folder(folder: Path) -> None:
    """Create the folder of ``--slot-save-path`` if it does not exist.

    Raises
    ------
    SettingsError
        The folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"--slot-save-path: {folder} cannot be created: {error.strerror or error}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SettingsError(f"--slot-save-path: {folder} is not writable")


def check_file_name(name: str | None) -> str:
    """Return a valid file name unchanged.

    Raises
    ------
    RequestError
        The name is missing, is not portable, or could lead out of the folder.
    """
    if not name:
        raise RequestError("Invalid filename: it is missing or empty", param="filename")
    if violation := _name_violation(name):
        raise RequestError(f"Invalid filename: {violation}", param="filename")
    return name


def _name_violation(name: str) -> str | None:
    """Return what is wrong with a file name, or None."""
    try:
        n_bytes = len(name.encode())
    except UnicodeEncodeError:
        return "it is not valid UTF-8"
    if n_bytes > MAX_NAME_BYTES:
        return f"it has {n_bytes} bytes; the maximum is {MAX_NAME_BYTES}"
    for character in name:
        if character in FORBIDDEN_CHARACTERS or unicodedata.category(character) == "Cc":
            return f"it contains the character U+{ord(character):04X}"
    if name != name.strip(" ") or name.endswith("."):
        return "it begins or ends with a space, or ends with a dot"
    return "it has two dots in a row" if ".." in name else None
