"""Wrong names in the settings and wrong headers of model files are errors before the server listens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamafw import Model, ModelError, Settings, SettingsError, Tokenizer, hookimpl
from llamafw.engine import load
from llamafw.engine.start_checks import check_names, open_and_check
from llamafw.plugins import Plugins
from llamafw.testing.tiny import write_tiny_gguf


class PluginEngine:
    """A plugin that may run any model on an engine of its own."""

    @hookimpl
    def create_engine(self, model: Any, tokenizer: Any, settings: Settings, finished: Any) -> Any:
        return None


class PluginFormat:
    """A plugin that may open any file."""

    @hookimpl
    def open_model(self, path: Path, settings: Settings) -> Any:
        return None


def plugins_with(*more: object) -> Plugins:
    plugins = Plugins()
    for plugin in more:
        plugins.pm.register(plugin, name=type(plugin).__name__)
    return plugins


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "nomba"}, "^--backend: no plugin provides the backend 'nomba'; did you mean 'numba'"),
        (
            {"tool_parser": "hermess"},
            "^--tool-parser: no plugin provides the tool parser 'hermess'; did you mean 'hermes'",
        ),
    ],
)
def test_unknown_names_are_settings_errors(settings: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_names(Settings(**settings), Plugins())  # type: ignore[arg-type]  # one str each


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"control_vector_layer_range": (1, 2)}, "^--control-vector-layer-range needs --control-vector or"),
        ({"lora_folder": "no/such/folder"}, "^--lora-folder: no/such/folder is not a folder"),
        ({"lora_folder": "~no-such-user"}, "^--lora-folder: ~no-such-user is not a folder"),
        ({"lora_scaled": ("a.gguf:1001",)}, "^--lora-scaled: the scale 1001 is out of range"),
    ],
)
def test_flags_of_adapters_that_have_no_effect_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_names(Settings(**settings), Plugins())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_queue_priority": ((1, 5), (0, 2), (1, 9))}, "^--max-queue-priority: .* limit for the priority 1$"),
        ({"spec_type": ("draft-mtp",), "spec_draft_n_min": 17}, "^--spec-draft-n-min: no draft has 17 tokens"),
        ({"lora_folder": "/"}, "^--lora-folder needs --props"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_names(Settings(**settings), Plugins())


def test_n_grams_are_not_limited_by_the_length_of_drafts() -> None:
    check_names(Settings(spec_type=("ngram-simple",), spec_draft_n_min=20), Plugins())


def test_known_names_pass() -> None:
    check_names(Settings(), Plugins())
    check_names(Settings(backend="numba", tool_parser="hermes"), Plugins())


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.architecture": "lama"}, "no plugin provides the architecture 'lama'; did you mean 'llama'"),
        ({"tokenizer.ggml.model": "gpt3"}, "no plugin provides the tokenizer 'gpt3'; did you mean 'gpt2'"),
        ({"tokenizer.ggml.model": None}, "the metadata has no tokenizer.ggml.model"),
    ],
)
def test_models_that_no_plugin_runs_are_model_errors(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", metadata=metadata)
    with pytest.raises(ModelError, match=message):
        open_and_check(path, Settings(), Plugins())


def test_files_that_are_not_gguf_are_model_errors(tmp_path: Path) -> None:
    (path := tmp_path / "model.gguf").write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(ModelError, match="GGUF"):
        open_and_check(path, Settings(), Plugins())
    with pytest.raises(ModelError, match="does not exist"):
        open_and_check(tmp_path / "nowhere.gguf", Settings(), Plugins())


def test_the_opened_model_is_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class LoadingStopped(Exception):
        """Raised after the model file would have been opened."""

    def stop(model: Model, plugins: Plugins) -> Tokenizer:
        raise LoadingStopped(model)

    monkeypatch.setattr(load, "make_tokenizer", stop)
    path, plugins, settings = write_tiny_gguf(tmp_path / "tiny.gguf"), Plugins(), Settings()
    model = open_and_check(path, settings, plugins)
    assert model is not None
    with pytest.raises(LoadingStopped) as caught:
        load.load_model(path, settings, plugins, lambda line: None, model=model)
    assert caught.value.args[0] is model


def test_files_that_are_not_mapped_are_checked_and_opened_later(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    assert open_and_check(path, Settings(mmap=False), Plugins()) is None
    path = write_tiny_gguf(tmp_path / "strange.gguf", metadata={"general.architecture": "strange"})
    with pytest.raises(ModelError, match="no plugin provides the architecture 'strange'"):
        open_and_check(path, Settings(mmap=False), Plugins())


def test_an_engine_of_a_plugin_needs_no_backend_or_architecture(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", metadata={"general.architecture": "strange"})
    plugins = plugins_with(PluginEngine())
    check_names(Settings(backend="elsewhere"), plugins)
    assert open_and_check(path, Settings(), plugins) is not None


def test_plugins_that_open_models_are_asked_while_loading(tmp_path: Path) -> None:
    assert open_and_check(tmp_path / "model.strange", Settings(), plugins_with(PluginFormat())) is None


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"lora": ("{}",)}, "--lora"),
        ({"lora_scaled": ("{}:0.5",)}, "--lora-scaled"),
        ({"control_vector": ("{}",)}, "--control-vector"),
        ({"control_vector_scaled": ("{}:2",)}, "--control-vector-scaled"),
        ({"spec_type": ("draft-simple",), "spec_draft_model": "{}"}, "--spec-draft-model"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
@pytest.mark.parametrize("kind", ["missing", "damaged"])
def test_files_beside_the_model_are_checked(tmp_path: Path, settings: dict[str, Any], flag: str, kind: str) -> None:
    """The message is one line that names the flag and the file."""
    path, other = write_tiny_gguf(tmp_path / "model.gguf"), tmp_path / "other.gguf"
    if kind == "damaged":
        other.write_bytes(path.read_bytes()[:500])
    given: dict[str, Any] = {
        name: value.format(other) if isinstance(value, str) else tuple(one.format(other) for one in value)
        for name, value in settings.items()
    }
    with pytest.raises(ModelError, match=rf"^{flag}: .*other\.gguf") as caught:
        open_and_check(path, Settings(**given), Plugins())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec_type", ["none", "ngram-simple"])
def test_draft_model_that_no_drafter_uses_is_not_checked(tmp_path: Path, spec_type: str) -> None:
    path = write_tiny_gguf(tmp_path / "model.gguf")
    settings = Settings(spec_type=(spec_type,), spec_draft_model=str(tmp_path / "missing.gguf"))
    assert open_and_check(path, settings, Plugins()) is not None
