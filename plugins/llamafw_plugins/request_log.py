"""What is written of every generation: a line on how fast it was, and with ``--logdir`` a YAML file of all there is.

A plugin like any other: it hears of generations by the hook ``request_finished``, and knows nothing of how they ran.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from llamafw import App, Finish, GenerateRequest, Register, SettingsError, hookimpl, request_id

log = logging.getLogger("llamafw.requests")


class RequestLog:
    """The plugin, for one server."""

    def __init__(self) -> None:
        self._app: App | None = None
        self._folder: Path | None = None
        self._numbers = itertools.count(1)

    @hookimpl
    def register_endpoints(self, register: Register, app: App) -> None:
        """Register none; make the folder of ``--logdir``, so that a start fails rather than every request."""
        self._app, self._folder = app, None
        if app.settings.logdir is not None:
            self._folder = folder(app.settings.logdir)
            self._writer = ThreadPoolExecutor(1, "llamafw-logdir")  # one file after the other

    @hookimpl
    def request_finished(self, request: GenerateRequest, finish: Finish | None) -> None:
        """Log how fast an answer was made; let its file be written."""
        if self._app is None:
            return
        if finish is not None and self._app.settings.perf and log.isEnabledFor(logging.INFO):
            log_speed(finish)
        if self._folder is not None:
            now = datetime.now(UTC)
            path = self._folder / f"{now:%Y-%m-%dT%H-%M-%S.%f}-{next(self._numbers):06}.yaml"
            facts = partial(record, request, finish, self._app, now, request_id())
            self._writer.submit(write, path, facts)

    @hookimpl
    def server_stopping(self, app: App) -> None:
        """Wait for the files."""
        if self._folder is not None:
            self._writer.shutdown()


def folder(name: str) -> Path:
    """Return the folder of ``--logdir``, made if it is not there; SettingsError if that cannot be."""
    path = Path(name).expanduser()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (probe := path / ".llamafw").touch()
        probe.unlink()
    except OSError as error:
        raise SettingsError(f"--logdir: {path} cannot be written to: {error.strerror or error}") from None
    return path


def log_speed(finish: Finish) -> None:
    """Log the counts and speeds of one answer."""
    times = finish.timings
    fields = {
        "prompt_tokens": finish.n_prompt,
        "cached_tokens": finish.n_cached,
        "prompt_tokens_per_second": speed(times.prompt_n, times.prompt_ms),
        "tokens": finish.n_predicted,
        "tokens_per_second": speed(times.predicted_n - 1, times.predicted_ms),  # the first one is the prompt's
        "queue_ms": round(times.queue_ms, 2),
    }
    log.info(
        "prompt %(prompt_tokens)d tokens, %(cached_tokens)d cached, %(prompt_tokens_per_second).1f tokens/s; "
        "answer %(tokens)d tokens, %(tokens_per_second).1f tokens/s; waited %(queue_ms).2f ms, request %(request_id)s",
        fields | {"request_id": request_id()},
        extra={"fields": fields},
    )


def speed(n: int, ms: float) -> float:
    """Return tokens per second; 0 of none, or in no time."""
    return round(n / ms * 1e3, 2) if n > 0 and ms > 0 else 0.0


def record(
    request: GenerateRequest, finish: Finish | None, app: App, when: datetime, request_id: str
) -> dict[str, Any]:
    """Return what a file says of one generation; ``finish`` is None there if it was cut short or failed."""
    loaded = app.loaded
    settings = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    prompt = settings.pop("prompt")
    return {
        "time": when.isoformat(),
        "request_id": request_id,
        "model": loaded.name,
        "prompt": loaded.tokenizer.decode(prompt, special=True),
        "output": None if finish is None else loaded.tokenizer.decode(finish.tokens, special=True),
        "settings": settings,
        "finish": None
        if finish is None
        else {
            field.name: getattr(finish, field.name)
            for field in dataclasses.fields(finish)
            if field.name not in ("tokens", "timings")
        },
        "timings": None if finish is None else finish.timings,
        "prompt_tokens": prompt,
        "output_tokens": None if finish is None else finish.tokens,
    }


def write(path: Path, facts: partial[dict[str, Any]]) -> None:
    """Write one file, readable by its owner alone. On a thread: what goes wrong there is logged, no request fails."""
    import yaml

    try:
        plain = as_plain(facts())
        path.touch(mode=0o600, exist_ok=False)
        with path.open("w", encoding="utf-8") as file:
            yaml.dump(plain, file, _dumper(), allow_unicode=True, sort_keys=False, default_flow_style=None, width=120)
    except Exception:
        log.exception("%s cannot be written", path)


def as_plain(value: Any) -> Any:
    """Return what YAML knows: dataclasses and mappings as dicts, sequences as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (str, int, float, type(None))):
        return value
    if hasattr(value, "items"):
        return {key: as_plain(item) for key, item in value.items()}
    return [as_plain(item) for item in value]


def _dumper() -> Any:
    import yaml

    return getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # where libyaml is, ten times as fast
