"""A real server process: its address, clients that disconnect, signals, and failed start-ups."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[2]
POSIX = pytest.mark.skipif(os.name != "posix", reason="the test sends POSIX signals")

LISTENING = re.compile(
    r"llamafw: listening on (http://\S+) \(loading the model; requests get 503 until it is ready\)\n"
)


class ApiProcess:
    """A server process that has printed its address."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        match = LISTENING.fullmatch(line)
        assert match, line + process.communicate()[0]
        self.url = match[1]

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=30)

    def end(self, number: int | None = None, seconds: float = 60) -> tuple[int, str]:
        """Send a signal, if one is given, wait for the end, and return the exit code and the rest of the output."""
        if number is not None:
            self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, output


@contextmanager
def started(load: str = "", **settings: Any) -> Iterator[ApiProcess]:
    command = [sys.executable, "-m", "support.api", json.dumps({"port": 0, **settings})]
    environ = {**os.environ, "PYTHONPATH": str(TESTS), "LOAD": load}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)
    try:
        yield ApiProcess(process)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def server() -> Iterator[ApiProcess]:
    with started() as process:
        yield process


async def wait_for(client: httpx.AsyncClient, event: str, n: int) -> None:
    """Wait until the API has counted ``n`` of ``event``."""
    async with asyncio.timeout(60):
        while (response := await client.get("/counts")).status_code != 200 or response.json()[event] < n:
            pass


async def wait_until_ready(client: httpx.AsyncClient) -> None:
    """Wait until the model is loaded."""
    await wait_for(client, "started", 0)


@pytest.mark.inventory("P-01")
async def test_the_server_becomes_ready_and_names_itself(server: ApiProcess) -> None:
    async with server.client() as client:
        await wait_until_ready(client)
        assert (await client.get("/health")).status_code == 200
        response = await client.post("/echo", json={"prompt": "é"})
        assert response.headers["server"] == "llamafw"
        assert len(response.headers.get_list("server")) == 1
        assert response.json()["body"]["prompt"] == "é"


@pytest.mark.inventory("P-01")
@POSIX
async def test_the_address_is_printed_while_loading_and_when_ready() -> None:
    with started() as process:
        async with process.client() as client:
            await wait_until_ready(client)
        code, output = await asyncio.to_thread(process.end, signal.SIGTERM)
    assert code == 0, output
    assert output.count(f"llamafw.server: ready on {process.url}\n") == 1


@pytest.mark.inventory("E-075")
@pytest.mark.parametrize("method", ["stream", "wait"])
async def test_requests_of_clients_that_disconnect_are_cancelled(server: ApiProcess, method: str) -> None:
    async with server.client() as client:
        await wait_until_ready(client)
        before = (await client.get("/counts")).json()
        counter = "closed" if method == "stream" else "cancelled"

        if method == "stream":
            body = {"n": 2, "hold": True}
            async with server.client() as other, other.stream("POST", "/stream", json=body) as response:
                events = response.aiter_lines()
                assert await anext(events) == 'data: {"i":0}'
                assert (await client.get("/counts")).json()[counter] == before[counter]
        else:
            async with server.client() as other:
                call = asyncio.create_task(other.post("/wait"))
                await wait_for(client, "started", before["started"] + 1)
                call.cancel()
                await asyncio.wait([call])

        await wait_for(client, counter, before[counter] + 1)


async def test_clients_that_do_not_read_do_not_delay_others(server: ApiProcess) -> None:
    body = b'{"n": 100000}'
    with socket.create_connection(server.address) as lazy:
        lazy.sendall(b"POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        async with server.client() as client:
            for _ in range(20):
                assert (await client.get("/health")).status_code == 200
            before = (await client.get("/counts")).json()["closed"]
    async with server.client() as client:
        await wait_for(client, "closed", before + 1)


async def test_pipelined_requests_work_and_malformed_ones_are_400(server: ApiProcess) -> None:
    async def exchange(raw: bytes, n_responses: int) -> bytes:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(raw)
        data = b""
        async with asyncio.timeout(10):
            while data.count(b"HTTP/1.1") < n_responses:
                data += await reader.read(65536)
        writer.close()
        return data

    async with server.client() as client:
        await wait_until_ready(client)
    get = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    assert (await exchange(get * 3, 3)).count(b"200 OK") == 3
    for raw in (
        b"nonsense\r\n\r\n",
        b"GET /health HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        assert b" 400 " in await exchange(raw, 1)
    assert b"200 OK" in await exchange(get, 1)


@pytest.mark.inventory("C-112", "H-16")
def test_incomplete_headers_time_out() -> None:
    with started(timeout=0.01) as process, socket.create_connection(process.address, timeout=30) as lazy:
        lazy.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nA: ")
        assert lazy.recv(1) == b""


@pytest.mark.inventory("P-03", "C-104")
def test_startup_fails_if_the_port_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = f"from support.api import main; import sys; sys.argv[1:] = ['{{\"port\": {port}}}']; main()"
        result = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    assert result.returncode == 1
    assert f"StartupError: cannot listen on 127.0.0.1:{port}: Address already in use" in result.stderr


@pytest.mark.parametrize(
    ("load", "line"),
    [
        ("fail", "cannot load the model: the file is not a model"),
        ("crash", "cannot load the model: ZeroDivisionError()"),
    ],
)
def test_the_server_ends_if_the_model_cannot_be_loaded(load: str, line: str) -> None:
    with started(load) as process:
        code, output = process.end()
    assert code == 1
    assert output.count(line) == 1
    assert ("Traceback" in output) is (load == "crash")


@pytest.mark.inventory("C-065", "C-069", "P-03")
@pytest.mark.parametrize("load", ["fail", "crash"])
@pytest.mark.parametrize("settings", [{"log_disable": True}, {"verbosity": 0}])
def test_without_a_log_the_reason_of_a_failed_start_is_printed(load: str, settings: dict[str, Any]) -> None:
    with started(load, **settings) as process:
        code, output = process.end()
    assert code == 1
    (line,) = output.splitlines()
    assert line.startswith("llamafw: cannot load the model: ")


@pytest.mark.inventory("P-08")
@POSIX
async def test_requests_of_clients_that_disconnect_are_logged_as_499() -> None:
    with started(log_json=True) as process:
        async with process.client() as client:
            await wait_until_ready(client)
            async with process.client() as other, other.stream("POST", "/stream", json={"hold": True}) as response:
                stream = response.headers["x-request-id"]
                await anext(response.aiter_lines())
            await wait_for(client, "closed", 1)

            async with process.client() as other:
                call = asyncio.create_task(other.post("/wait", headers={"x-request-id": "waiting"}))
                await wait_for(client, "started", 2)
                call.cancel()
                await asyncio.wait([call])
            await wait_for(client, "cancelled", 1)
        code, output = await asyncio.to_thread(process.end, signal.SIGTERM)

    assert code == 0, output
    entries = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    logged = {entry["request_id"]: (entry["path"], entry["status"]) for entry in entries if "status" in entry}
    assert logged[stream] == ("/stream", 499)
    assert logged["waiting"] == ("/wait", 499)


@pytest.mark.inventory("P-08")
@POSIX
async def test_log_json_makes_every_line_json() -> None:
    with started(log_json=True, verbose=True) as process:
        async with process.client() as client:
            await wait_until_ready(client)
            await client.post("/fail", json={"how": "secret"})
            await client.get("/a%0d%0a%22%7d")
        code, output = await asyncio.to_thread(process.end, signal.SIGTERM)
    assert code == 0, output
    entries = [json.loads(line) for line in output.splitlines()]
    assert any("ValueError: secret of /home/me" in entry.get("exception", "") for entry in entries)
    assert any(entry.get("path") == "/a%0D%0A%22%7D" for entry in entries)
    assert {entry["level"] for entry in entries} >= {"info", "error"}


@pytest.mark.inventory("P-05")
@POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_running_requests_finish(number: int) -> None:
    with started() as process:
        async with process.client() as client, process.client() as other:
            await wait_until_ready(client)
            call = asyncio.create_task(other.get("/wait?seconds=1"))
            await wait_for(client, "started", 1)
            process.process.send_signal(number)
            assert (await call).json() == {"result": "finished"}
        code, output = await asyncio.to_thread(process.end)
    assert code == 0, output
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(process.address)


@pytest.mark.inventory("P-05")
@POSIX
async def test_requests_that_outlast_the_grace_period_get_503() -> None:
    with started(timeout_graceful_shutdown=0.3) as process:
        async with process.client() as client:
            await wait_until_ready(client)
            call = asyncio.create_task(client.get("/wait"))
            async with process.client() as other:
                await wait_for(other, "started", 1)
            process.process.send_signal(signal.SIGTERM)
            response = await call
            assert response.status_code == 503
            assert response.json()["error"]["message"] == "the server is stopping"
        code, output = await asyncio.to_thread(process.end)
    assert code == 0, output


@POSIX
async def test_streams_that_are_not_read_do_not_delay_the_end() -> None:
    with started(timeout_graceful_shutdown=0.1) as process:
        async with process.client() as client:
            await wait_until_ready(client)
            async with client.stream("POST", "/stream", json={"hold": True}) as response:
                assert await anext(response.aiter_lines()) == 'data: {"i":0}'
                code, output = await asyncio.to_thread(process.end, signal.SIGTERM)
    assert code == 0, output


@pytest.mark.inventory("P-05")
@POSIX
async def test_a_second_signal_ends_the_server_at_once() -> None:
    with started(timeout_graceful_shutdown=60) as process:
        async with process.client() as client:
            await wait_until_ready(client)
            call = asyncio.create_task(client.get("/wait"))
            async with process.client() as other:
                await wait_for(other, "started", 1)

            process.process.send_signal(signal.SIGTERM)
            assert process.process.stdout is not None
            for line in iter(process.process.stdout.readline, ""):
                if "stopping" in line:
                    break

            code, _ = await asyncio.to_thread(process.end, signal.SIGTERM)
            await asyncio.wait([call])
            assert call.exception() is not None
    assert code == 128 + signal.SIGTERM


@POSIX
async def test_a_signal_ends_the_server_while_the_model_loads() -> None:
    with started("never") as process:
        async with process.client() as client:
            assert (await client.get("/health")).status_code == 503
        code, output = await asyncio.to_thread(process.end, signal.SIGTERM)
    assert code == 0, output


@pytest.mark.inventory("C-103")
async def test_localhost_means_all_loopback_addresses() -> None:
    with started(host="localhost") as process:
        port = process.url.rpartition(":")[2]
        async with httpx.AsyncClient(timeout=30) as client:
            assert (await client.get(f"http://localhost:{port}/openapi.json")).status_code == 200
            assert (await client.get(f"http://127.0.0.1:{port}/openapi.json")).status_code == 200


@pytest.mark.inventory("C-103")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have only one loopback address")
def test_only_the_address_of_host_is_bound() -> None:
    with started(host="127.0.0.2") as process:
        host, port = process.address
        assert host == "127.0.0.2"
        socket.create_connection(process.address).close()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port))
