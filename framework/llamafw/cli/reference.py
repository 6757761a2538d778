"""docs/cli.md: every flag of ``llamafw serve``, from the table. ``python -m llamafw.cli.reference`` prints the page."""

from __future__ import annotations

import re

from llamafw.options import Option
from llamafw.settings import Settings, options

HEAD = """# The command line

<!-- Made by `make docs` from framework/llamafw/settings.py. -->

`llamafw serve` takes the flags below; names and meanings are llama-server's. `--flag VALUE` and `--flag=VALUE` are
the same, and underscores in long flags count as hyphens. Of flags that turn the same thing on and off the last one
wins. A flag that does not exist or a value that will not do ends the start with one line on stderr and exit code 1.
Plugins may add flags; `llamafw serve --help` shows them too.

Flags win over environment variables, these over the file of `--config`, the file over defaults.

## In the environment

Values are as on the command line; what is on or off is `1`, `true`, `on`, `yes` or `0`, `false`, `off`, `no`. Flags
that may be repeated take several values separated by commas, except `LLAMA_API_KEY`, which is one key. An empty
variable counts as none. The log tells where a flag wins over a variable that says otherwise.

## In a file

`--config FILE`, or `LLAMAFW_CONFIG`, names a [TOML](https://toml.io) file. Its keys are long flags without `--`, with
hyphens or underscores; flags that may be repeated take an array:

```toml
model = "model.gguf"
ctx-size = 8192
context-shift = false
api-key = ["one", "two"]
```

Relative paths in it start where the server starts, as on the command line. A value given by a flag or a variable
replaces the file's, arrays too. Some settings say the same in other words, as `samplers` and `sampling-seq` do: a flag
or a variable for one of them replaces the other as well. A key that does not exist, or a value of the wrong type, ends
the start with one line that names the file and the key. `llamafw bench`, `plugins`, `pull` and `spec` read it too.

Flags that plugins add are keys as well. Plugins also have [options](plugins/settings.md), in tables of their own; next
to these, the plugins that `--plugin` would name are `plugins`:

```toml
plugins = ["mine.py"]

[plugin.mine]
limit = 60
```

`--plugin-option mine.limit=9` wins over the table, one key at a time.
"""


def page() -> str:
    """Return docs/cli.md."""
    groups: dict[str, list[str]] = {}
    for name, opt in options().items():
        groups.setdefault(opt.group, []).append(_row(opt, Settings.__dataclass_fields__[name].default))
    head = "| Flag | Environment | Default | Values | What it does |\n|---|---|---|---|---|\n"
    return HEAD + "".join(f"\n## {group.capitalize()}\n\n{head}" + "".join(rows) for group, rows in groups.items())


def _row(opt: Option, default: object) -> str:
    flags = [*opt.flags[:-1], f"{opt.flags[-1]} {opt.metavar}" if opt.metavar else opt.flags[-1], *opt.off]
    named = re.search(r" ?\(default: ([^()]*)\)", opt.help)  # what None stands for
    text = opt.help if named is None else opt.help.replace(named[0], "", 1)
    cells = (
        ", ".join(map(_code, flags)),
        ", ".join(_code(env) for env in (opt.env, opt.off_env) if env),
        _prose(named[1]) if named else _default(default),
        opt.range or {bool: "", int: "whole numbers", float: "numbers", str: ""}[opt.type],
        _prose(text),
    )
    return "| " + " | ".join(cells) + " |\n"


def _default(default: object) -> str:
    if default is None or default == ():
        return ""
    return ("on" if default else "off") if isinstance(default, bool) else str(default)


def _code(text: str) -> str:
    return f"`{text}`".replace("|", r"\|")  # a table's cell ends at |, even in code


def _prose(text: str) -> str:
    """Return text as Markdown shows it, with what is in backticks as it is."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*<|\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


if __name__ == "__main__":
    print(page(), end="")
