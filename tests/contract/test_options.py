"""Schemathesis fuzzes the options of third-party samplers like our own: nothing is to be done for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support.distributions import write_distribution

CODE = """
import json, os
from llamafw import hookimpl

class Notes:
    options = {"notes": {"type": "integer", "minimum": 3, "maximum": 5, "default": 4, "description": "Any of three."}}
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


def test_a_samplers_option_is_fuzzed(tmp_path: Path) -> None:
    (site := tmp_path / "site").mkdir()
    write_distribution(site, "llamafw-notes", CODE)
    notes = tmp_path / "notes"
    command = [sys.executable, "-m", "llamafw", "contract-test", "--path", "/completion", "--max-examples", "10"]
    environ = {**os.environ, "PYTHONPATH": str(site), "NOTES": str(notes)}
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "API Operations" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    seen = {json.loads(line) for line in notes.read_text().splitlines()}
    assert seen == {3, 4, 5}  # valid ones arrive, all of them; others never do
    assert "notes must" not in done.stdout  # nor is a valid one refused, which would be reported
