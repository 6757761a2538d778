"""Log every generation: a line with its speed, and with ``--logdir`` a YAML file with the whole request and answer."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from llamafw import App, Finish, GenerateRequest, Register, SettingsError, hookimpl, request_id

log = logging.getLogger("llamafw.requests")


class RequestLog:
    """The plugin.

    The hook ``request_finished`` reports each generation to it.
    """

    def __init__(self) -> None:
        self._app: App | None = None
        self._folder: Path | None = None
        self._numbers = itertools.count(1)
        self._has_warned = False  # that files cannot be written; on the writer thread

    @hookimpl
    def register_endpoints(self, register: Register, app: App) -> None:
        """Create the folder of ``--logdir``: if that fails, start-up fails.

        Registers no endpoints.
        """
        self._app, self._folder = app, None
        if app.settings.logdir is not None:
            self._folder = create_folder(app.settings.logdir)
            self._writer = ThreadPoolExecutor(1, "llamafw-logdir")  # writes one file at a time

    @hookimpl
    def request_finished(self, request: GenerateRequest, finish: Finish | None) -> None:
        """Log the speed of a generation, and hand its file to the writer thread."""
        if self._app is None:
            return
        if finish is not None and self._app.settings.perf and log.isEnabledFor(logging.INFO):
            log_speed(finish)
        if self._folder is not None:
            now = datetime.now(UTC)
            path = self._folder / f"{now:%Y-%m-%dT%H-%M-%S.%f}-{next(self._numbers):06}.yaml"
            make_record = partial(generation_record, request, finish, self._app, now, request_id())
            self._writer.submit(self._write, path, make_record)

    def _write(self, path: Path, make_record: partial[dict[str, Any]]) -> None:
        """Write one file.

        Errors fail no request; those of the disk are logged once, until a file can be written.
        """
        try:
            write_file(path, make_record)
            self._has_warned = False
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                log.warning("--logdir: %s cannot be written: %s", path, error.strerror or error)
        except Exception:
            log.exception("%s cannot be written", path)

    @hookimpl
    def server_stopping(self, app: App) -> None:
        """Wait until all files are written."""
        if self._folder is not None:
            self._writer.shutdown()


def create_folder(name: str) -> Path:
    """Return the folder of ``--logdir``, created if it does not exist.

    Raises
    ------
    SettingsError
        The folder cannot be created or written to.
    """
    path = Path(name).expanduser()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (probe := path / ".llamafw").touch()
        probe.unlink()
    except OSError as error:
        raise SettingsError(f"--logdir: {path} cannot be written to: {error.strerror or error}") from None
    return path


def log_speed(finish: Finish) -> None:
    """Log the token counts and speeds of one generation."""
    timings = finish.timings
    fields = {
        "prompt_tokens": finish.n_prompt,
        "cached_tokens": finish.n_cached,
        "prompt_tokens_per_second": tokens_per_second(timings.prompt_n, timings.prompt_ms),
        "tokens": finish.n_predicted,
        # evaluating the prompt yields the first token, so its time is part of prompt_ms
        "tokens_per_second": tokens_per_second(timings.predicted_n - 1, timings.predicted_ms),
        "queue_ms": round(timings.queue_ms, 2),
    }

    log.info(
        "prompt: %(prompt_tokens)d tokens, %(cached_tokens)d cached, %(prompt_tokens_per_second).1f tokens/s; "
        "response: %(tokens)d tokens, %(tokens_per_second).1f tokens/s; queue: %(queue_ms).2f ms; "
        "request %(request_id)s",
        fields | {"request_id": request_id()},
        extra={"fields": fields},
    )


def tokens_per_second(n: int, ms: float) -> float:
    """Return a speed; 0 if there were no tokens or no time passed."""
    return round(n / ms * 1e3, 2) if n > 0 and ms > 0 else 0.0


def generation_record(
    request: GenerateRequest, finish: Finish | None, app: App, when: datetime, request_id: str
) -> dict[str, Any]:
    """Return the contents of the file of one generation.

    Parameters
    ----------
    finish : Finish, optional
        None if the generation failed or was cancelled.
    """
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
        "finish": None if finish is None else _finish_record(finish),
        "timings": None if finish is None else finish.timings,
        "prompt_tokens": prompt,
        "output_tokens": None if finish is None else finish.tokens,
    }


def write_file(path: Path, make_record: partial[dict[str, Any]]) -> None:
    """Write one file that only its owner can read; create the folder again if somebody has removed it.

    Raises
    ------
    OSError
        The file cannot be written. Nothing is left of it.
    """
    import yaml

    record = to_plain(make_record())
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    try:
        with path.open("w", encoding="utf-8") as file:
            yaml.dump(record, file, _dumper(), allow_unicode=True, sort_keys=False, default_flow_style=None, width=120)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def to_plain(value: Any) -> Any:
    """Return a value that YAML can represent: dataclasses and mappings become dicts, sequences become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (str, int, float, type(None))):
        return value
    if hasattr(value, "items"):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value]


def _finish_record(finish: Finish) -> dict[str, Any]:
    """Return the fields of a finish, except tokens and timings, which are elsewhere in the file."""
    names = [field.name for field in dataclasses.fields(finish) if field.name not in ("tokens", "timings")]
    return {name: getattr(finish, name) for name in names}


def _dumper() -> Any:
    import yaml

    return getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the C dumper needs libyaml and is ten times as fast
