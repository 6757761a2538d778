"""/completion.js in Node, against a real server with a tiny model."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llamafw.testing.process import ServerProcess, running_server
from llamafw.testing.tiny import write_tiny_gguf

KEY = "k"
BODY = {"n_predict": 5, "ignore_eos": True, "temperature": 0, "stop": []}

node = shutil.which("node")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(node is None, reason="needs Node")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    model = write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")
    with running_server(model, "--api-key", KEY) as running:
        yield running


def run(server: ServerProcess, folder: Path, code: str) -> object:
    """Run code with the script imported as ``js``, and return the JSON that it prints."""
    script = httpx.get(f"{server.url}/completion.js", timeout=60).text  # needs no key
    (folder / "completion.mjs").write_text(script)
    constants = f"const config = {{api_url: '{server.url}'}}; const params = {json.dumps({**BODY, 'api_key': KEY})};"
    (folder / "main.mjs").write_text(f"import * as js from './completion.mjs';\n{constants}\n{code}")
    done = subprocess.run([str(node), "main.mjs"], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.inventory("H-14")
@pytest.mark.parametrize(
    "code",
    [
        "let t = ''; for await (const c of js.llama('abc', params, config)) t += c.data.content;"
        "console.log(JSON.stringify(t))",
        "console.log(JSON.stringify(await js.llamaPromise('abc', params, config)))",
        "js.llamaEventTarget('abc', params, config)"
        ".addEventListener('done', (e) => console.log(JSON.stringify(e.detail.content)))",
        "const fetched = fetch; globalThis.fetch = (url, o) => fetched(config.api_url + url, o); let t = '';"
        "await js.llamaComplete({...params, prompt: 'abc'}, new AbortController(), (c) => { t += c.data.content });"
        "console.log(JSON.stringify(t))",
        "console.log(JSON.stringify(await js.llamaPromise('abc', {...params, stream: false}, config)))",
    ],
)
def test_every_function_returns_the_text(server: ServerProcess, tmp_path: Path, code: str) -> None:
    headers = {"X-Api-Key": KEY}
    body = {**BODY, "prompt": "abc"}
    text = httpx.post(f"{server.url}/completion", json=body, headers=headers, timeout=60).json()["content"]
    assert text
    assert run(server, tmp_path, code) == text


@pytest.mark.inventory("H-14")
def test_script_returns_settings_and_throws_errors(server: ServerProcess, tmp_path: Path) -> None:
    code = """
    const info = await js.llamaModelInfo({...config, api_key: params.api_key});
    let error;
    try { await js.llamaPromise("abc", {...params, top_k: "x"}, config) } catch (e) { error = [e.code, e.param] }
    console.log(JSON.stringify([Object.keys(js).sort(), info.n_ctx, error]));
    """
    names = ["llama", "llamaComplete", "llamaEventTarget", "llamaModelInfo", "llamaPromise"]
    assert run(server, tmp_path, code) == [names, 512, [400, "top_k"]]
