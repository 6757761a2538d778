"""GET /slots and POST /slots/{id_slot}: what slots do; their caches to files and back."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path

from llamafw import App, Call, GenerateRequest, NotSupported, RequestError, SettingsError, SlotStatus, Unavailable
from llamafw_plugins.endpoints.shapes import JSON, settings_shape, stopped

STATES = {"idle": 0, "prompt": 1, "generating": 3}  # llama-server's numbers; it has a 2 between prompt and answer
FORBIDDEN = frozenset('/\\:*?"<>|\uff0e\u2215\u2216\ufffd\ufeff')
MOST_BYTES = 255


class SlotOperations:
    """The operations `getSlots` and `changeSlot`."""

    def __init__(self, app: App) -> None:
        self.app = app
        given = app.settings.slot_save_path
        self.folder = None if given is None else Path(given).expanduser()
        if self.folder is not None and not self.folder.is_dir():
            raise SettingsError(f"--slot-save-path: there is no folder {given}")

    async def list(self, call: Call) -> list[JSON]:
        """Return what each slot does."""
        if not self.app.settings.slots:
            raise NotSupported("This server does not support slots endpoint. Start it with `--slots`")
        found = self.app.loaded.engine.slots()
        if "fail_on_no_slot" in call.query and all(slot.state != "idle" for slot in found):
            raise Unavailable("no slot available")
        return [self._shape(slot) for slot in found]

    async def change(self, call: Call) -> JSON:
        """Save, restore or erase a slot's cache."""
        if self.folder is None:
            raise NotSupported("This server does not support slots action. Start it with `--slot-save-path`")
        engine, action, slot = self.app.loaded.engine, call.query["action"], int(call.path["id_slot"])
        started = time.perf_counter()
        if action == "erase":
            return {"id_slot": slot, "n_erased": await engine.erase_slot(slot)}
        name = checked_name((call.body or {}).get("filename"))
        run = engine.save_slot if action == "save" else engine.restore_slot
        n, n_bytes = await run(slot, self.folder / name)
        words = ("n_saved", "n_written") if action == "save" else ("n_restored", "n_read")
        timings = {f"{action}_ms": (time.perf_counter() - started) * 1e3}
        return {"id_slot": slot, "filename": name, words[0]: n, words[1]: n_bytes, "timings": timings}

    def _shape(self, slot: SlotStatus) -> JSON:
        loaded = self.app.loaded
        request = slot.request or self.app.prepare({}, ())
        settings = settings_shape(request, loaded, stream=False)
        return {
            **settings,
            "params": settings,
            "id": slot.id,
            "id_task": slot.id_task,
            "state": STATES[slot.state],
            "is_processing": slot.state != "idle",
            "prompt": self._prompt(slot.request),
            "n_prompt_tokens": slot.n_prompt,
            "n_prompt_tokens_processed": slot.n_prompt_processed,
            "n_prompt_tokens_cache": slot.n_cached,
            "n_past": slot.n_tokens,
            "next_token": {
                "has_next_token": slot.state != "idle",
                "n_remain": slot.n_remain,
                "n_decoded": slot.n_decoded,
                **stopped(slot.stop_type),
                "stopping_word": slot.stopping_word,
            },
        }

    def _prompt(self, request: GenerateRequest | None) -> str | None:
        return None if request is None else self.app.loaded.tokenizer.decode(request.prompt, special=True)


def checked_name(name: str | None) -> str:
    """Return the name of a file within the folder; RequestError if it might be anything else."""
    if not name:
        raise RequestError("Invalid filename: it is missing", param="filename")
    fault = _fault(name)
    if fault:
        raise RequestError(f"Invalid filename: {fault}", param="filename")
    return name


def _fault(name: str) -> str | None:
    try:
        n_bytes = len(name.encode())
    except UnicodeEncodeError:
        return "it is no UTF-8"
    if n_bytes > MOST_BYTES:
        return f"it has more than {MOST_BYTES} bytes"
    wrong = next((char for char in name if char in FORBIDDEN or unicodedata.category(char) == "Cc"), None)
    if wrong is not None:
        return f"it has the character U+{ord(wrong):04X}"
    if name != name.strip(" ") or name.endswith("."):
        return "it begins or ends with a space, or ends with a dot"
    return "it has two dots in a row" if ".." in name else None
