"""Read the parts of the API document that built-in plugins add, from YAML files beside their code."""

from __future__ import annotations

from importlib.resources import files
from typing import Any


def read_fragment(package: str, name: str = "openapi.yaml") -> dict[str, Any]:
    """Return the content of a YAML file in a package."""
    import yaml  # here, because loading plugins must be quick

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast, but not always installed
    fragment: dict[str, Any] = yaml.load(files(package).joinpath(name).read_text("utf-8"), Loader=loader)
    return fragment
