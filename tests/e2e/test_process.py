"""The server process: start-up, health, SIGTERM, plugins, failed start-ups."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import httpx
import numpy as np
import pytest
import trustme

from llamafw.testing.process import running_server
from llamafw.testing.tiny import write_tiny_gguf

SLOW = """
import threading
from llamafw import hookimpl

@hookimpl
def open_model(path, settings):
    if not (gate := path.with_suffix(".gate")).exists():
        pause = threading.Event()
        while not gate.exists():
            pause.wait(0.01)
    return None
"""

FAULTY = """
from llamafw import hookimpl

class Faulty:
    options = {"fail_at": {"type": "integer", "minimum": 0, "maximum": 100, "default": 0}}
    truncates = False

    def __init__(self, left):
        self.left = left

    @classmethod
    def create(cls, options, context):
        return cls(options["fail_at"]) if options["fail_at"] else None

    def apply(self, candidates):
        self.left -= 1
        if not self.left:
            raise RuntimeError("a secret of the server")

    def accept(self, token):
        pass

@hookimpl
def register_samplers(register):
    register("faulty", Faulty)
"""


EVENTS = """
from llamafw import hookimpl

@hookimpl
def request_finished(request, finish):
    print("finished", len(request.prompt), finish and finish.n_predicted, flush=True)
    raise RuntimeError("this hook cannot fail the request")

@hookimpl
def model_unloaded(model, app):
    print("unloaded", model.path.name, flush=True)
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(path)
    return path


@pytest.mark.inventory("P-01", "E-001")
def test_requests_get_503_while_the_model_loads(tiny: Path, tmp_path: Path) -> None:
    (plugin := tmp_path / "slow.py").write_text(SLOW)
    gate = tiny.with_suffix(".gate")
    with running_server(tiny, "--plugin", str(plugin), ready=False) as server:
        for path in ("/health", "/v1/models", "/nowhere"):
            response = httpx.get(f"{server.url}{path}", timeout=60)
            assert response.status_code == 503
            assert response.json()["error"]["message"] == "Loading model"
        gate.touch()
        server.wait_until_ready()
        assert httpx.get(f"{server.url}/health", timeout=60).json() == {"status": "ok"}


@pytest.mark.inventory("P-05")
async def test_sigterm_lets_a_stream_finish(tiny: Path) -> None:
    with running_server(tiny) as server:
        body = {"prompt": "abc", "n_predict": 200, "ignore_eos": True, "stream": True}
        async with (
            httpx.AsyncClient(timeout=60) as http,
            http.stream("POST", f"{server.url}/completion", json=body) as response,
        ):
            lines = response.aiter_lines()
            events = [await anext(lines)]
            code = asyncio.create_task(asyncio.to_thread(server.terminate))
            events += [line async for line in lines]

        last = json.loads([line for line in events if line][-1][6:])
        assert last["stop"] is True
        assert last["tokens_predicted"] == 200
        assert await code == 0


@pytest.mark.inventory("P-05")
def test_sigterm_when_idle_exits_with_0(tiny: Path) -> None:
    with running_server(tiny) as server:
        assert server.terminate() == 0
        assert "Traceback" not in "".join(server.output)


async def test_failing_sampler_fails_only_its_request(tiny: Path, tmp_path: Path) -> None:
    (plugin := tmp_path / "faulty.py").write_text(FAULTY)
    good = {"prompt": "abc", "n_predict": 40, "seed": 1, "ignore_eos": True, "samplers": ["top_k", "temperature"]}
    bad = {**good, "samplers": ["faulty"], "fail_at": 5}
    with running_server(tiny, "--plugin", str(plugin)) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            alone = (await http.post("/completion", json=good)).json()["content"]
            answers = await asyncio.gather(*(http.post("/completion", json=body) for body in (good, bad, good)))
            assert [answer.status_code for answer in answers] == [200, 500, 200]
            assert [answers[0].json()["content"], answers[2].json()["content"]] == [alone, alone]
            assert "secret" not in answers[1].text
            assert (await http.post("/completion", json={**good, "fail_at": "x"})).status_code == 400
        assert "a secret of the server" in "".join(server.output)


@pytest.mark.inventory("E-001", "P-07", "B-04", "K-02")
async def test_health_is_ok_under_full_load_and_slots_are_freed(tiny: Path) -> None:
    body = {"prompt": "abc", "n_predict": -1, "ignore_eos": True, "stream": True}

    async def listen(http: httpx.AsyncClient) -> None:
        async with http.stream("POST", "/completion", json=body) as response:
            async for _ in response.aiter_bytes():
                pass

    async def until(http: httpx.AsyncClient, processing: int, deferred: int) -> None:
        wanted = [f"llamacpp:requests_processing {processing}.0", f"llamacpp:requests_deferred {deferred}.0"]
        async with asyncio.timeout(60):
            while not set(wanted) <= set((await http.get("/metrics")).text.splitlines()):
                pass

    limits = httpx.Limits(max_connections=None)
    with running_server(tiny, "-np", "4", "--metrics") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as http:
            tasks = [asyncio.create_task(listen(http)) for _ in range(64)]
            await until(http, 4, 60)
            for _ in range(20):
                assert (await http.get("/health")).json() == {"status": "ok"}
            await until(http, 4, 60)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await until(http, 0, 0)
            assert (await http.post("/completion", json={**body, "n_predict": 2, "stream": False})).status_code == 200


async def test_plugins_are_notified_when_generations_end(tiny: Path, tmp_path: Path) -> None:
    (plugin := tmp_path / "events.py").write_text(EVENTS)
    with running_server(tiny, "--plugin", str(plugin)) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            body = {"prompt": [5, 6, 7], "n_predict": 3, "ignore_eos": True}
            assert (await http.post("/completion", json=body)).json()["tokens_predicted"] == 3
            async with http.stream("POST", "/completion", json={**body, "n_predict": -2, "stream": True}) as response:
                await anext(response.aiter_lines())

        server.wait_for("finished 3 None")
        assert server.terminate() == 0
        output = "".join(server.output)
    assert "finished 3 3" in output
    assert "failed in request_finished" in output
    assert f"unloaded {tiny.name}" in output


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["-m", "nowhere.gguf"], 1, "the model file nowhere.gguf does not exist"),
        (["--backend", "nomba"], 2, "did you mean 'numba'"),
        (["--override-kv", "tokenizer.ggml.model=str:gpt3"], 1, "no plugin provides the tokenizer 'gpt3'"),
        (["--chat-template", "chatmll"], 2, "chatml"),
        (["--override-kv", "llama.block_count=int:x"], 2, "--override-kv"),
        (["--no-plugin", "llamafw:architectures"], 1, "no plugin provides the architecture 'llama'"),
        (["-f", "nowhere.txt"], 2, "--file: nowhere.txt cannot be read: No such file"),
        (["-p", "a", "-bf", "b"], 2, "--prompt and --binary-file cannot be used together"),
    ],
)
@pytest.mark.inventory("P-03", "C-024", "C-059")
def test_failed_start_prints_one_line(tiny: Path, flags: list[str], code: int, message: str) -> None:
    model = [] if "-m" in flags else ["-m", str(tiny)]
    command = [sys.executable, "-m", "llamafw", "serve", "--port", "0", *model, *flags]
    environment = {name: value for name, value in os.environ.items() if name != "LLAMAFW_BACKEND"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert result.returncode == code
    (line,) = result.stderr.splitlines()
    assert message in line
    needs_model = flags[0] == "--chat-template"
    assert ("listening on" in result.stdout) is needs_model


@pytest.mark.inventory("C-114")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_system_prompt_file_may_be_a_pipe(tiny: Path, tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")  # like -spf <(command) in a shell
    writer = threading.Thread(target=pipe.write_text, args=("Be kind.",), daemon=True)
    writer.start()
    with running_server(tiny, "-spf", str(pipe)) as server:
        assert httpx.get(f"{server.url}/props", timeout=60).json()["system_prompt"] == "Be kind."


@pytest.mark.inventory("P-03")
def test_port_in_use_exits_with_1(tiny: Path) -> None:
    with running_server(tiny) as server:
        port = server.url.rpartition(":")[2]
        command = [sys.executable, "-m", "llamafw", "serve", "-m", str(tiny), "--port", port]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert port in line


@pytest.mark.inventory("C-109", "C-110", "C-111", "H-15")
def test_https_and_key_file_work_together(tiny: Path, tmp_path: Path) -> None:
    authority, ours = trustme.CA(), ssl.create_default_context()
    issued = authority.issue_cert("127.0.0.1")
    authority.configure_trust(ours)
    cert, key, keys = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "keys"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    keys.write_text("first\n\nsecond\n")
    flags = ("--ssl-cert-file", str(cert), "--ssl-key-file", str(key), "--api-key-file", str(keys))

    with running_server(tiny, *flags, ready=False) as server:
        assert server.url.startswith("https://")
        server.wait_until_ready(verify=ours)
        with httpx.Client(base_url=server.url, verify=ours, timeout=60) as client:
            statuses = {
                key: client.get("/props", headers={"authorization": f"Bearer {key}"}).status_code
                for key in ("first", "second", "third")
            }

        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{server.url}/health", timeout=60)
        with pytest.raises(httpx.TransportError):  # the port does not speak plain HTTP
            httpx.get(f"{server.url.replace('https', 'http')}/health", timeout=60)
        assert server.terminate() == 0
    assert statuses == {"first": 200, "second": 200, "third": 401}


@pytest.mark.inventory("C-065", "C-066", "C-068", "C-069")
def test_log_flags_write_and_disable_the_log(tiny: Path, tmp_path: Path) -> None:
    for flag in ("-v", "--log-verbose", "-lv=4"):
        path = tmp_path / f"log{flag}"
        with running_server(tiny, "--log-file", str(path), *flag.split("=")) as server:
            httpx.get(f"{server.url}/health?key=secret", timeout=60)
            assert server.terminate() == 0
        text = path.read_text()
        assert " I llamafw.access: GET /health 200 " in text
        assert "secret" not in text
        assert "Started server process" in text  # uvicorn's debug log

    with running_server(tiny, "--log-disable", "-v") as server:
        assert server.terminate() == 0
        server.wait_for_end()
    assert [line for line in server.output if "listening on" not in line] == []


@pytest.mark.inventory("C-052")
def test_check_tensors_finds_invalid_weights(tmp_path: Path) -> None:
    norm = np.full(64, np.nan, np.float32)
    damaged = write_tiny_gguf(tmp_path / "model.gguf", tensors={"output_norm.weight": norm})
    command = [sys.executable, "-m", "llamafw", "serve", "--port", "0", "-m", str(damaged), "--check-tensors"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert "the tensor 'output_norm.weight' has weights that are not finite numbers: 64" in result.stderr
    with running_server(write_tiny_gguf(tmp_path / "sound.gguf"), "--check-tensors") as server:
        assert server.terminate() == 0


@pytest.mark.inventory("C-001", "C-002")
def test_help_and_version_need_no_model() -> None:
    def output(*argv: str) -> str:
        command = [sys.executable, "-m", "llamafw", *argv]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    usage = output("serve", "--usage", "-m", "nowhere.gguf")
    assert usage == output("serve", "--help") == output("serve", "-h")
    groups = ("common", "model", "CPU", "sampling", "server", "plugins", "logging")
    assert all(f"\n{group}:\n" in usage for group in groups)
    assert output("serve", "--version") == output("version") == output("--version")
    assert output("version").startswith(f"llamafw {version('llamafw')}, API ")


def test_bench_prints_json(tiny: Path) -> None:
    command = [sys.executable, "-m", "llamafw", "bench", "-m", str(tiny), "-p", "16", "-n", "4", "-t", "1,2", "-r", "2"]
    command += ["-d", "0,9"]
    result = subprocess.run([*command, "-np", "1,3", "--json"], capture_output=True, text=True, check=True)
    rows = json.loads(result.stdout)["results"]
    assert [(row["test"], row["threads"]) for row in rows] == [
        (test + depth, threads) for threads in (1, 2) for depth in ("", " @d9") for test in ("pp16", "tg4", "tg4x3")
    ]
    assert all(row["low"] <= row["median"] <= row["high"] for row in rows)
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "tokens/s" in table


def test_spec_prints_the_merged_document(tmp_path: Path) -> None:
    (plugin := tmp_path / "faulty.py").write_text(FAULTY)
    command = [sys.executable, "-m", "llamafw", "spec", "--json", "--plugin", str(plugin)]
    document = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert document["openapi"] == "3.0.3"
    assert "fail_at" in document["components"]["schemas"]["CompletionRequest"]["properties"]
