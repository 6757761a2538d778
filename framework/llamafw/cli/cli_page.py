"""Make docs/cli.md from the table of settings: ``python -m llamafw.cli.cli_page`` prints the page."""

from __future__ import annotations

import re

from llamafw.options import Option
from llamafw.settings import Settings, options

HEAD = """# The command line

<!-- Made by `make docs` from framework/llamafw/settings.py. -->

`llamafw serve` takes the flags below. Names and meanings are those of llama-server. `--flag VALUE` and `--flag=VALUE`
are the same, and underscores in long flags count as hyphens. If flags contradict each other, such as `--mmap` and
`--no-mmap`, the last one wins. Plugins can add flags; `llamafw serve --help` lists these too. `llamafw chat`, `run`,
`bench`, `perplexity`, `imatrix` and `cvector` take them as well.

Flags take precedence over environment variables, environment variables over the file of `--config`, and the file over
the defaults.

## Exit codes

| Code | Meaning |
|---|---|
| 0 | success; for `llamafw serve`, stopped by SIGINT or SIGTERM |
| 1 | failure: the model cannot be found, downloaded or loaded, the port is in use, a plugin fails |
| 2 | usage error: an unknown command or flag, or a wrong value on the command line, in the environment or in the file |
| 130 | interrupted with Ctrl-C, except for `llamafw serve` |

The error is one line on stderr. `llamafw plugins`, `plugin check`, `contract-test` and `spec --diff` also return 1 if
they find something wrong, and [`llamafw run`](terminal.md#one-answer-and-pipes) if the request fails.

## Environment variables

Values are written as on the command line. A flag that takes no value is turned on by `1`, `true`, `on` or `yes`, and
off by `0`, `false`, `off` or `no`. The variable of a flag that may be repeated is a list, separated by commas; only
`LLAMA_API_KEY` is a single key. An empty variable counts as unset. If a flag overrides a variable with another value,
the log says so.

## Configuration file

`--config FILE`, or `LLAMAFW_CONFIG`, names a [TOML](https://toml.io) file. Its keys are the long flags without `--`,
with hyphens or underscores. A flag that may be repeated takes an array:

```toml
model = "model.gguf"
ctx-size = 8192
context-shift = false
api-key = ["one", "two"]
```

Relative paths start at the working directory, as on the command line. A flag or variable replaces the value in the
file, arrays included. Some settings are alternatives, such as `samplers` and `sampling-seq`: a flag or variable for one
of them replaces the other in the file, too. `llamafw bench`, `chat`, `cvector`, `fit`, `imatrix`, `perplexity`,
`plugins`, `pull`, `run` and `spec` also read the file.

Flags of plugins are keys as well. Plugins can also have [options](plugins/settings.md), in a table for each plugin; in
such a file, the key for `--plugin` is `plugins`:

```toml
plugins = ["mine.py"]

[plugin.mine]
limit = 60
```

`--plugin-option mine.limit=9` replaces a single key of such a table.
"""


def page() -> str:
    """Return docs/cli.md."""
    groups: dict[str, list[str]] = {}
    for name, opt in options().items():
        groups.setdefault(opt.group, []).append(_row(opt, Settings.__dataclass_fields__[name].default))
    head = "| Flag | Environment | Default | Values | What it does |\n|---|---|---|---|---|\n"
    tables = (f"\n## {group[0].upper()}{group[1:]}\n\n{head}{''.join(rows)}" for group, rows in groups.items())
    return HEAD + "".join(tables)


def _row(opt: Option, default: object) -> str:
    flag_with_value = f"{opt.flags[-1]} {opt.metavar}" if opt.metavar else opt.flags[-1]
    flags = [*opt.flags[:-1], flag_with_value, *opt.off_flags]
    text, default_text = opt.help_and_default(default)
    cells = (
        ", ".join(map(_code, flags)),
        ", ".join(_code(env) for env in (opt.env, opt.off_env) if env),
        _prose(default_text),
        opt.range or {bool: "", int: "whole numbers", float: "numbers", str: ""}[opt.type],
        _prose(text),
    )
    return "| " + " | ".join(cells) + " |\n"


def _code(text: str) -> str:
    return f"`{text}`".replace("|", r"\|")  # an unescaped | ends a table cell, even in code


def _prose(text: str) -> str:
    """Return text escaped for Markdown, except for code in backticks."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*<|\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


if __name__ == "__main__":
    print(page(), end="")
