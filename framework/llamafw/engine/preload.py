"""What is evaluated before the first request comes: ``-p``, ``-f`` or ``-bf``. It knows nothing of slots."""

from __future__ import annotations

import asyncio
import re

from llamafw.engine.engine import BatchingEngine
from llamafw.errors import RequestError, SettingsError
from llamafw.options import read_file
from llamafw.serving import LoadedModel
from llamafw.settings import Settings

_ESCAPE = re.compile(r"""\\(?:x([0-9A-Fa-f]{2})|([nrt'"\\]))""")
_MEANING = {"n": "\n", "r": "\r", "t": "\t"}


def first_prompt(settings: Settings) -> tuple[str, str] | None:
    """Return the text to evaluate and the flag that it comes from; None if no flag asks for any."""
    given = {"--prompt": settings.prompt, "--file": settings.file, "--binary-file": settings.binary_file}
    flags = [flag for flag, value in given.items() if value is not None]
    if len(flags) > 1:
        raise SettingsError(f"{' and '.join(flags)} exclude each other")
    if settings.prompt is not None:
        return _unescaped(settings.prompt) if settings.escape else settings.prompt, "--prompt"
    if settings.file is not None:
        return read_file("--file", settings.file).removesuffix("\n").removesuffix("\r"), "--file"
    if settings.binary_file is not None:
        return read_file("--binary-file", settings.binary_file), "--binary-file"
    return None


def preload(engine: BatchingEngine, loaded: LoadedModel, text: str, flag: str) -> int:
    """Evaluate a text into the cache, as a completion would; return its tokens. On a thread without an event loop."""
    prompt = loaded.whole_prompt(loaded.tokenizer.encode(text, add_special=True, parse_special=True))
    try:
        asyncio.run(engine.preload(prompt))
    except RequestError as error:
        raise SettingsError(f"{flag}: {error.message}") from None
    return len(prompt)


def _unescaped(text: str) -> str:
    r"""Return a text with ``\n``, ``\r``, ``\t``, ``\'``, ``\"``, ``\\`` and ``\xHH`` replaced, others as they are.

    What is written with ``\x`` are bytes of UTF-8.
    """

    def meaning(found: re.Match[str]) -> bytes:
        byte, letter = found.groups()
        return bytes([int(byte, 16)]) if byte else _MEANING.get(letter, letter).encode()

    raw, end = b"", 0
    for found in _ESCAPE.finditer(text):
        raw += text[end : found.start()].encode() + meaning(found)
        end = found.end()
    try:
        return (raw + text[end:].encode()).decode()
    except UnicodeDecodeError as error:
        raise SettingsError(f"--prompt: byte {error.start} is no UTF-8") from None
