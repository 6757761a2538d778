"""Reads the flags and files that do not depend on the model: prompts, grammars, biases.

They are read before a model is downloaded, because a mistake in them should stop start-up early.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llamafw.errors import SettingsError
from llamafw.models.overrides import parse_override
from llamafw.options import read_file, unescape
from llamafw.settings import Settings
from llamafw.types import GrammarSource


@dataclass(frozen=True, slots=True)
class StartupInputs:
    """The values of flags that do not depend on the model, and the contents of files that flags name."""

    preload: tuple[str, str] | None  # text to evaluate at start-up, and the flag it comes from
    system_prompt: str  # "" without one
    grammar: GrammarSource | None  # applies to requests that have none
    logit_bias: Mapping[int, float]  # applies to requests that have none


def read_startup_inputs(settings: Settings) -> StartupInputs:
    """Read the flags, and each file once, because a file may be a pipe.

    Raises
    ------
    SettingsError
        A file cannot be read, a value is invalid, or two flags cannot be used together.
    """
    for text in settings.override_kv:
        parse_override(text)
    return StartupInputs(
        _preload_text(settings), _system_prompt(settings), default_grammar(settings), settings.logit_biases()
    )


def default_grammar(settings: Settings) -> GrammarSource | None:
    """Return the grammar for requests that have none, from the flags for grammars and JSON schemas."""
    values = {
        "--grammar": settings.grammar,
        "--grammar-file": settings.grammar_file,
        "--json-schema": settings.json_schema,
        "--json-schema-file": settings.json_schema_file,
    }
    given = [flag for flag, value in values.items() if value is not None]
    if len(given) > 1 and given != ["--grammar", "--grammar-file"]:
        raise SettingsError(f"{given[0]} and {given[-1]} cannot be used together")
    if settings.json_schema is not None:
        return GrammarSource("json_schema", settings.json_schema, "--json-schema")
    if settings.json_schema_file is not None:
        text = read_file("--json-schema-file", settings.json_schema_file)
        return GrammarSource("json_schema", text, "--json-schema-file")

    text = settings.grammar or ""
    if settings.grammar_file is not None:
        text += read_file("--grammar-file", settings.grammar_file)
    return GrammarSource("gbnf", text, "--grammar") if text.strip() else None


def _preload_text(settings: Settings) -> tuple[str, str] | None:
    """Return the text of ``--prompt``, ``--file`` or ``--binary-file``, and the flag's name."""
    values = {"--prompt": settings.prompt, "--file": settings.file, "--binary-file": settings.binary_file}
    flags = [flag for flag, value in values.items() if value is not None]
    if len(flags) > 1:
        raise SettingsError(f"{' and '.join(flags)} cannot be used together")

    if settings.prompt is not None:
        return unescape(settings.prompt, "--prompt") if settings.escape else settings.prompt, "--prompt"
    if settings.file is not None:
        return read_file("--file", settings.file).removesuffix("\n").removesuffix("\r"), "--file"
    if settings.binary_file is not None:
        return read_file("--binary-file", settings.binary_file), "--binary-file"
    return None


def _system_prompt(settings: Settings) -> str:
    file = settings.system_prompt_file
    return "" if file is None else read_file("--system-prompt-file", file)
