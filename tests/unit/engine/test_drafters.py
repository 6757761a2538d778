"""Which drafters a server uses, and which draft models it refuses."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoints import write
from llamafw import Model, ModelError, PluginError, Settings, SettingsError
from llamafw.engine import load as load_module
from llamafw.engine.load import load_model
from llamafw.engine.start_checks import check_names
from llamafw.plugins import Plugins
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_plugins.drafters.draft_simple import DraftSimple
from llamafw_plugins.drafters.ngram_simple import NgramSimple
from support.flags import parse_settings
from support.predicting_models import find

FLAGS: dict[str, Any] = {"backend": "deterministic", "parallel": 2, "ctx_size": 512}


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    """All plugins, and a backend without weights."""
    return Plugins(extra=("llamafw.testing.backend",))


@pytest.fixture
def predicting_model(tmp_path: Path) -> Path:
    """The file of a tiny model with a block for multi-token prediction."""
    return write(find("glm4moe-groups-nextn"), tmp_path / "predicting.gguf")


@pytest.fixture
def load(tiny_model: Path, plugins: Plugins) -> Callable[..., Any]:
    """Return a function that loads the tiny model and returns its engine, which is stopped."""

    def load_with(**settings: Any) -> Any:
        lines: list[str] = []
        loaded = load_model(tiny_model, Settings(**FLAGS | settings), plugins, lines.append)
        engine: Any = loaded.engine
        engine._thread.stop(60)  # stops the thread without an event loop
        return engine

    return load_with


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        ([], ()),
        (["--spec-type", "none"], ()),
        (["--spec-type", "ngram-map-k,ngram-simple"], ("ngram-map-k", "ngram-simple")),
        (["--spec-type", "draft-simple,ngram-simple"], ("ngram-simple", "draft-simple")),  # models come last
        (["--spec-type", "ngram-simple", "--spec-type", "ngram-simple"], ("ngram-simple",)),
        (["-md", "small.gguf"], ("draft-simple",)),
        (["--spec-draft-hf", "user/repo"], ("draft-simple",)),
        (["-md", "small.gguf", "--spec-type", "none"], ()),
        (["-md", "small.gguf", "--spec-type", "ngram-simple"], ("ngram-simple",)),
    ],
)
def test_flags_choose_drafters(argv: list[str], names: tuple[str, ...]) -> None:
    assert parse_settings(*argv).drafters == names


def test_older_names_of_flags_are_the_same() -> None:
    old = parse_settings(
        "--model-draft", "a", "--draft-max", "7", "--draft-min", "2", "--draft-p-min", "0.5", "-td", "3"
    )
    new = parse_settings(
        "--spec-draft-model", "a", "--spec-draft-n-max", "7", "--spec-draft-n-min", "2", "--spec-draft-p-min", "0.5",
        "--spec-draft-threads", "3",
    )  # fmt: skip
    assert old == new
    assert parse_settings(LLAMA_ARG_DRAFT_MAX="9").spec_draft_n_max == 9


def test_unknown_drafter_is_refused_before_the_server_listens(plugins: Plugins) -> None:
    with pytest.raises(
        SettingsError, match=r"--spec-type: no plugin provides the drafter 'ngram-simpel'.*ngram-simple"
    ):
        check_names(Settings(spec_type=("ngram-simpel",)), plugins)


def test_drafters_are_created_in_order_and_closed(load: Callable[..., Any]) -> None:
    engine = load(spec_type=("ngram-map-k", "ngram-simple"), spec_ngram_map_k_size_m=9)
    drafters = engine._options.drafters
    assert list(drafters) == ["ngram-map-k", "ngram-simple"]
    assert [drafter.n_max for drafter in drafters.values()] == [9, 48]
    assert not engine._worker.speculative  # they are closed with the engine


def test_draft_model_gets_its_own_settings(load: Callable[..., Any], tiny_model: Path, monkeypatch: Any) -> None:
    from llamafw.testing.backend import DeterministicBackend

    seen: list[Any] = []
    original = DeterministicBackend.__init__

    def spy(self: Any, context: Any) -> None:
        seen.append(context.options)
        original(self, context)

    monkeypatch.setattr(DeterministicBackend, "__init__", spy)
    load(
        spec_draft_model=str(tiny_model), threads=2, spec_draft_threads=1, spec_draft_type_k="q8_0", cache_type_v="f32"
    )
    first, draft = seen
    assert (first.n_threads, first.cache_type_k, first.cache_type_v) == (2, "f16", "f32")
    assert (draft.n_threads, draft.n_threads_batch, draft.cache_type_k, draft.cache_type_v) == (1, 1, "q8_0", "f16")
    assert (draft.n_slots, draft.n_ctx) == (first.n_slots, first.n_ctx)


def test_draft_model_must_be_named(load: Callable[..., Any]) -> None:
    with pytest.raises(SettingsError, match="--spec-type: draft-simple needs a model: --spec-draft-model"):
        load(spec_type=("draft-simple",))


def test_model_must_have_a_block_for_predictions(load: Callable[..., Any]) -> None:
    with pytest.raises(
        SettingsError,
        match=r"--spec-type: draft-mtp needs a block .*nextn.*; .*gguf does not have one, or .* in a llama model",
    ):
        load(spec_type=("draft-mtp",))


def test_blocks_that_predict_are_refused_with_self_extend(plugins: Plugins) -> None:
    settings = Settings(**FLAGS | {"spec_type": ("draft-mtp",), "grp_attn_n": 4})
    with pytest.raises(SettingsError, match="--spec-type: draft-mtp needs hidden states, which --grp-attn-n changes"):
        check_names(settings, plugins)


def test_backend_must_return_hidden_states(predicting_model: Path, plugins: Plugins) -> None:
    settings = Settings(**FLAGS | {"spec_type": ("draft-mtp",)})
    with pytest.raises(SettingsError, match="hidden states, which the backend 'deterministic' cannot return"):
        load_model(predicting_model, settings, plugins, lambda line: None)


@pytest.mark.parametrize("drafter", ["draft-mtp", "ngram-simple"])
@pytest.mark.parametrize("flag", ["--spec-draft-model", "--spec-draft-hf"])
def test_draft_model_that_no_drafter_uses_is_refused(
    flag: str, drafter: str, predicting_model: Path, plugins: Plugins
) -> None:
    name = {flag.removeprefix("--").replace("-", "_"): "a/b"}
    settings = Settings(**FLAGS | {"backend": None, "spec_type": (drafter,), "warmup": False} | name)
    with pytest.raises(SettingsError, match=f"^{flag}: no drafter that --spec-type names uses the draft model"):
        load_model(predicting_model, settings, plugins, lambda line: None)


def test_block_has_the_models_options_but_its_own_cache(predicting_model: Path, plugins: Plugins) -> None:
    settings = Settings(
        **FLAGS
        | {"backend": None, "spec_type": ("draft-mtp",), "spec_draft_type_k": "bf16", "threads": 2, "warmup": False}
    )
    engine: Any = load_model(predicting_model, settings, plugins, lambda line: None).engine
    block = engine._options.drafters["draft-mtp"]._backend
    assert (block.n_slots, block.n_ctx) == (2, 256)
    assert block.describe()["cache_types"] == "bf16/f16"
    assert (block.describe()["n_threads"], block.n_vocab) == (2, 320)
    engine._thread.stop(60)


@pytest.mark.parametrize(("field", "flag"), [("spec_draft_type_k", "-ctkd"), ("spec_draft_type_v", "-ctvd")])
@pytest.mark.parametrize("drafter", ["draft-simple", "draft-mtp"])
def test_type_that_does_not_fit_the_draft_is_an_error_with_its_own_flag(
    drafter: str, field: str, flag: str, predicting_model: Path, plugins: Plugins, tmp_path: Path
) -> None:
    small = write_tiny_gguf(tmp_path / "small.gguf", n_vocab=320)  # heads of 16 numbers; q8_0 needs multiples of 32
    model = predicting_model if drafter == "draft-mtp" else small
    settings = FLAGS | {"backend": "numba", "threads": 1, "spec_type": (drafter,), field: "q8_0", "warmup": False}
    if drafter == "draft-simple":
        settings["spec_draft_model"] = str(small)
    with pytest.raises(SettingsError, match=f"^--spec-.*: {flag} q8_0 stores blocks of 32 numbers"):
        load_model(model, Settings(**settings), plugins, lambda line: None)


def test_missing_draft_model_is_an_error(load: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--spec-draft-model: the model file .*none.gguf does not exist"):
        load(spec_draft_model=str(tmp_path / "none.gguf"))


def test_draft_model_with_another_vocabulary_is_refused(load: Callable[..., Any], tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "llama.gguf", tokenizer="llama")
    with pytest.raises(
        SettingsError, match=r"--spec-draft-model: (token \d+ is .* in the vocabulary|the vocabulary of)"
    ):
        load(spec_draft_model=str(path))


def test_draft_model_may_have_some_more_tokens(load: Callable[..., Any], tmp_path: Path) -> None:
    n_vocab = load()._tokenizer.n_vocab
    path = write_tiny_gguf(tmp_path / "padded.gguf", n_vocab=n_vocab + 100)
    assert "draft-simple" in load(spec_draft_model=str(path))._options.drafters
    path = write_tiny_gguf(tmp_path / "larger.gguf", n_vocab=n_vocab + 200)
    with pytest.raises(SettingsError, match=f"has {n_vocab + 200} tokens, and that of the model {n_vocab}"):
        load(spec_draft_model=str(path))


def test_drafter_without_its_methods_is_refused(tiny_model: Path, plugins: Plugins) -> None:
    registry = plugins.registry("drafter")
    registry.add("careless", lambda context: object(), owner="mine:plugin")
    try:
        with pytest.raises(PluginError, match=r"plugin mine:plugin: the drafter 'careless' lacks n_max, draft\(\)"):
            load_model(tiny_model, Settings(**FLAGS | {"spec_type": ("careless",)}), plugins, lambda line: None)
    finally:
        registry.remove("mine:plugin")


def test_models_of_drafters_leave_the_memory_and_come_back(
    predicting_model: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def open_model(path: Path, *others: Any) -> Model:
        opened.append(path)
        return original(path, *others)

    original = load_module.open_model
    monkeypatch.setattr(load_module, "open_model", open_model)
    own = {"backend": None, "spec_type": ("ngram-simple", "draft-simple", "draft-mtp"), "warmup": False, "threads": 1}
    settings = Settings(**FLAGS | own | {"spec_draft_model": str(predicting_model), "sleep_idle_seconds": 600})
    engine: Any = load_model(predicting_model, settings, plugins, lambda line: None).engine
    thread = engine._thread
    grams, model, block = engine._options.drafters.values()
    assert opened == [predicting_model] * 3  # the model, and the draft model for the estimate and to load it

    def backends() -> list[Any]:
        return [engine._backend.inner, model._drafter._backend, block._drafter._backend]

    before = [weakref.ref(backend) for backend in backends()]
    thread._sleep()  # the thread itself waits for requests
    assert [one.is_loaded for one in (engine._backend, model, block)] == [False] * 3
    assert [backend() for backend in before] == [None] * 3
    assert isinstance(grams, NgramSimple)  # it keeps what it knows of earlier responses

    assert thread._wake() is None
    first, _, third = backends()
    assert third._beside is first  # they share weights
    assert len(opened) == 3
    thread.stop(60)
    assert [one.is_loaded for one in (model, block)] == [False] * 2


def test_drafters_are_the_plugins_own_if_the_server_does_not_sleep(load: Callable[..., Any], tiny_model: Path) -> None:
    assert isinstance(load(spec_draft_model=str(tiny_model))._options.drafters["draft-simple"], DraftSimple)
