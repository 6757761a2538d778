"""The contract test fuzzes the options of third-party samplers without extra work for their authors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.distributions import write_distribution

CODE = """
import json, os
from llamafw import hookimpl

class Notes:
    options = {"notes": {"type": "integer", "minimum": 3, "maximum": 5, "default": 4, "description": "A number."}}
    truncates = False

    @classmethod
    def create(cls, options, context):
        with open(os.environ["NOTES"], "a") as file:
            file.write(json.dumps(options["notes"]) + "\\n")

@hookimpl
def register_samplers(register): register("notes", Notes)

@hookimpl(wrapper=True)
def prepare_request(body):
    from dataclasses import replace
    request = yield
    return replace(request, samplers=("notes", *request.samplers))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_option_of_a_third_party_sampler_is_fuzzed(tmp_path: Path) -> None:
    (site := tmp_path / "site").mkdir()
    write_distribution(site, "llamafw-notes", CODE)
    notes = tmp_path / "notes"
    command = [sys.executable, "-m", "llamafw", "contract-test", "--path", "/completion", "--max-examples", "10"]
    environ = {**os.environ, "PYTHONPATH": str(site), "NOTES": str(notes)}
    process = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "API Operations" in process.stdout, process.stdout[-3000:] + process.stderr[-3000:]
    values = {json.loads(line) for line in notes.read_text().splitlines()}
    assert values == {3, 4, 5}  # all valid values arrive, and no others
    assert "notes must" not in process.stdout  # the message of a rejected valid value, in the report of schemathesis
