"""Tests with two servers: one runs the model, the other sends its requests there."""

from typing import Any

from llamafw.testing.conformance import PluginConformance

BODY = {"prompt": "Hello nation", "n_predict": 12, "temperature": 0.7, "seed": 3, "top_k": 40}
CHAIN = {"samplers": ["temperature"]}
REMOTE = {"remote_key": "secret", "remote_model": None, "remote_fields": "temperature,top_p"}


async def test_answers_come_from_the_remote_server(serve: Any, serve_http: Any) -> None:
    async with serve_http(api_key=("secret",), samplers="temperature") as url:
        extra = {**REMOTE, "remote_url": f"{url}/v1"}
        async with serve(samplers="temperature") as local, serve(extra=extra, backend="none", ctx_size=64) as remote:
            for path, shape in (("/completion", "content"), ("/v1/completions", "choices")):
                expected, found = [(await client.post(path, json=BODY)).json()[shape] for client in (local, remote)]
                assert found == expected

            chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "seed": 1, "stream": True}
            texts = [(await client.post("/v1/chat/completions", json=chat)).text for client in (local, remote)]
            assert texts[1].count("data: ") > 3
            assert texts[1].endswith("data: [DONE]\n\n")

            usage = (await remote.post("/v1/completions", json=BODY)).json()["usage"]
            assert usage["completion_tokens"] == 12
            assert (await remote.get("/v1/models")).json()["data"][0]["meta"]["n_embd"] == 64
            assert (await remote.get("/health")).status_code == 200

            for refused, status, word in (
                ({"min_p": 0.5}, 501, "--remote-fields"),
                ({"ignore_eos": True}, 501, "ignore_eos"),
                ({"n_probs": 3}, 501, "returns no logits"),
                ({"json_schema": {}}, 501, "returns no logits"),
                ({"prompt": [5] * 64}, 400, "context"),
            ):
                error = (await remote.post("/completion", json={**BODY, **refused})).json()["error"]
                assert (error["code"], word in error["message"]) == (status, True), error


async def test_unreachable_remote_server_is_503(serve: Any) -> None:
    async with serve(extra={**REMOTE, "remote_url": "http://127.0.0.1:9/v1"}, backend="none") as client:
        response = await client.post("/completion", json=BODY)
        assert response.status_code == 503
        assert "does not answer" in response.json()["error"]["message"]
        stream = await client.post("/completion", json={**BODY, "stream": True})
        assert stream.status_code == 503


class TestPlugin(PluginConformance):
    name = "llamafw-remote"
