"""Commands refuse the flags of a backend that does not run the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamafw import Model, Settings, SettingsError
from llamafw.cli.main import main
from llamafw.engine.components import choose_backend
from llamafw.engine.load import load_model
from llamafw.plugins import Plugins
from llamafw.testing.tiny import write_tiny_gguf

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 4
COMMANDS = {
    "bench": "bench -m m.gguf -p 8 -n 0 -r 1 -t 1",
    "perplexity": "perplexity m.gguf text.txt -c 32 --quiet",
    "imatrix": "imatrix m.gguf text.txt -c 32 --quiet -o imatrix.gguf",
    "cvector": "cvector m.gguf --positive-file text.txt --negative-file other.txt --quiet -o vector.gguf",
    "run": "run m.gguf -p x -n 1 -t 1 -c 64",
}
UNUSED = [
    ("onnx", "--numba-activations int8", "numba"),
    ("numba", "--onnx-activations int8", "onnx"),
    ("numba", "--onnx-provider cpu", "onnx"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model and texts."""
    write_tiny_gguf(tmp_path / "m.gguf", types="Q8_0", metadata={"tokenizer.ggml.add_bos_token": True})
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "other.txt").write_text(TEXT.replace("quick", "slow"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", None)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "flag", "owner"), UNUSED)
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_flags_of_other_backends(
    command: str, backend: str, flag: str, owner: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.iterdir())
    assert main([*COMMANDS[command].split(), "--backend", backend, *flag.split()]) == 2
    message = f"llamafw: {flag}: only the backend {owner!r} has this flag, but {backend!r} runs the model"
    assert capsys.readouterr().err.splitlines()[-1] == message
    assert sorted(folder.iterdir()) == before


def test_servers_refuse_flags_of_other_backends(folder: Path) -> None:
    settings = Settings(threads=1, extra={"onnx_activations": "int8"})
    with pytest.raises(SettingsError, match="^--onnx-activations int8: only the backend 'onnx' has this flag"):
        load_model(folder / "m.gguf", settings, Plugins(), lambda line: None)


def test_flags_select_their_backend_or_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plugins = Model(Path("m.gguf"), {}, {}, 0), Plugins()
    plugins.registry("backend").add("plain", lambda context: None, owner="test")
    monkeypatch.setenv("LLAMAFW_ONNX_PROVIDER", "cuda")  # a preference, which --backend overrides

    def chosen(backend: str | None, **extra: str) -> str:
        return choose_backend(model, Settings(backend=backend, extra=extra), plugins)

    assert chosen("plain") == chosen("plain", onnx_provider="auto") == "plain"
    assert chosen("numba", numba_activations="int15") == chosen(None, numba_activations="int8") == "numba"
    for given in ({"onnx_provider": "cuda"}, {"onnx_activations": "int8"}):
        assert chosen("onnx", **given) == "onnx"
        for backend in ("plain", "numba"):
            with pytest.raises(SettingsError, match=f"only the backend 'onnx' has this flag, but {backend!r} runs"):
                chosen(backend, **given)
    with pytest.raises(
        SettingsError, match=r"^--onnx-provider cuda: only the backend 'onnx' .* 'numba' runs the model"
    ):
        chosen(None, numba_activations="int8", onnx_provider="cuda")
