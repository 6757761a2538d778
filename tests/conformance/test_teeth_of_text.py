"""Each promise about text and models, broken: the suites say which it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llamafw import ModelError, RequestError
from llamafw.testing.conformance import (
    ArchitectureConformance,
    AuthenticatorConformance,
    ChatFormatConformance,
    GrammarConformance,
    PluginConformance,
    ToolParserConformance,
    WeightsConformance,
)
from llamafw_plugins.architectures import llama
from llamafw_plugins.chat_formats import chatml
from llamafw_plugins.chat_formats.jinja import JinjaChatFormat
from llamafw_plugins.grammars.compiler import LlguidanceCompiler
from llamafw_plugins.tool_parsers.hermes import Hermes
from support.conformance import broken, suite


def grammar(**members: Any) -> Any:
    """A compiler of GBNF whose grammars have other methods."""

    def compile(self: Any, source: str) -> Any:
        made = LlguidanceCompiler.compile(self, source)
        made.__class__ = type("Broken", (type(made),), members)
        return made

    kind = type("Broken", (LlguidanceCompiler,), {"compile": compile})
    return suite(GrammarConformance, lambda context: kind("gbnf", context), name="gbnf")


def test_grammars() -> None:
    grammar().test_mask_and_accept_say_the_same()
    made = grammar(mask=lambda self, logits: None)
    broken("accept refuses|the mask leaves|forbids", made.test_mask_and_accept_say_the_same)
    made = grammar(accept=lambda self, token: True)
    broken("which the mask forbids", made.test_mask_and_accept_say_the_same)
    made = grammar(mask=lambda self, logits: logits.fill(1))
    broken("has changed logits", made.test_a_mask_only_forbids)
    one = LlguidanceCompiler.compile
    shared = type(
        "Shared",
        (LlguidanceCompiler,),
        {"compile": lambda self, source: self.__dict__.setdefault(source, one(self, source))},
    )
    made = suite(GrammarConformance, lambda context: shared("gbnf", context), name="gbnf")
    broken("another moved", made.test_answers_are_apart)
    lax = SimpleNamespace(compile=lambda source: None)
    broken("DID NOT RAISE", suite(GrammarConformance, lambda context: lax, name="gbnf").test_what_is_wrong_is_refused)


class Lines:
    """A parser that reads whole answers alone."""

    def feed(self, text: str) -> Any:
        if text.startswith("<tool_call>") and text.endswith("</tool_call>"):
            return Hermes().create().feed(text)
        return text, ()

    def finish(self) -> Any:
        return "", ()


def parser(**members: Any) -> Any:
    return suite(ToolParserConformance, type("Broken", (Hermes,), members)())


@pytest.mark.parametrize(
    ("made", "test", "message"),
    [
        (parser(create=lambda self: Lines()), "it_reads_the_same_however_it_arrives", "in .* pieces is"),
        (
            parser(create=lambda self: SimpleNamespace(feed=lambda text: ("", ()), finish=lambda: ("", ()))),
            "it_reads_what_its_grammar_writes",
            "no call is found",
        ),
        (
            parser(create=lambda self: SimpleNamespace(feed=lambda text: (text.strip(), ()), finish=lambda: ("", ()))),
            "what_is_no_call_is_text",
            "is not left alone",
        ),
        (parser(matches=lambda self, template: True), "templates_are_told_apart", "knows no tools"),
        (
            parser(inline=lambda self, messages, tools: messages),
            "messages_for_a_template_without_tools",
            "has no text|is not written",
        ),
        (
            parser(
                grammar=lambda self, tools, *, parallel: (
                    'start: "<tool_call>\\n" %json '
                    + json.dumps(
                        {
                            "type": "object",
                            "properties": {"name": {"const": "x"}, "arguments": {"const": {}}},
                            "required": ["name", "arguments"],
                            "additionalProperties": False,
                        }
                    )
                    + ' "\\n</tool_call>"'
                )
            ),
            "it_reads_what_its_grammar_writes",
            "calls 'x'",
        ),
    ],
)
def test_tool_parsers(made: Any, test: str, message: str) -> None:
    broken(message, getattr(made, f"test_{test}"))


def chat_format(template: str = chatml.TEMPLATE, **members: Any) -> Any:
    kind = type("Broken", (JinjaChatFormat,), members)
    return suite(ChatFormatConformance, lambda context: kind(template, context))


@pytest.mark.parametrize(
    ("made", "test", "message"),
    [
        (chat_format("{{ messages[-1].content }}"), "messages_are_in_the_prompt_in_order", "is not in the prompt"),
        (
            chat_format("{% if add_generation_prompt %}x{% endif %}y"),
            "a_prompt_for_an_answer_goes_on_from_one_without",
            "does not begin with",
        ),
        (
            chat_format(render=lambda self, messages, **_: messages[0]["content"].upper()),
            "what_it_cannot_write_it_refuses",
            "IndexError",
        ),
        (
            chat_format(chatml.TEMPLATE + "{{ nobody_knows_this }}"),
            "variables_it_does_not_know_are_left_alone",
            "has changed the prompt",
        ),
        (chat_format(""), "its_source_can_be_shown", "is empty"),
    ],
)
def test_chat_formats(made: Any, test: str, message: str) -> None:
    broken(message, getattr(made, f"test_{test}"))


def architecture(change: Any) -> Any:
    return suite(ArchitectureConformance, change, name="llama")


def test_architectures(write_model: Any) -> None:
    made = architecture(lambda model: replace(llama(model), n_head_kv=3))
    broken("heads share 3", made.test_its_numbers_fit_one_another, write_model)
    made = architecture(lambda model: replace(llama(model), tensors={"output": "nowhere"}))
    broken("not in the file", made.test_every_tensor_is_in_the_file, write_model)
    whole = llama(suite(ArchitectureConformance, llama, name="llama").open(write_model))
    made = architecture(lambda model: whole)
    broken("is made all the same", made.test_a_tensor_that_is_missing_or_has_another_shape_is_an_error, write_model)
    made = architecture(lambda model: replace(whole, n_layer=model.metadata["llama.block_count"]))
    broken("n_layer is|KeyError", made.test_metadata_that_are_missing_or_wrong_are_an_error, write_model)


def weights(open_model: Any, write: Any = None) -> Any:
    return suite(WeightsConformance, lambda path, settings: open_model(path), write=write)


def test_weights(tmp_path: Any, tiny_model: Any) -> None:
    broken(
        "which is none of its files",
        weights(lambda path: object()).test_it_leaves_other_files_alone,
        tmp_path,
        tiny_model,
    )

    def read(path: Any) -> Any:
        (path / "model").read_text().splitlines()[3]

    def write(self: Any, folder: Any, gguf: Any) -> Any:
        (folder / "model").write_text("a\nb\nc\nd")
        return folder

    broken("IndexError", weights(read, write).test_damage_is_a_model_error, tmp_path, tiny_model)


def test_plugins_that_are_no_good_guests(tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text(
        "import gguf\nfrom llamafw import hookimpl\nfrom llamafw.sampling.chain import Chain\n"
        "@hookimpl\ndef server_started(app): pass\n"
    )
    (tmp_path / "idle.py").write_text("import llamafw_plugins.samplers\n")
    mine, idle = (
        suite(PluginConformance, None, name=str(tmp_path / name), plugins=(str(tmp_path / name),))
        for name in ("mine.py", "idle.py")
    )
    broken("mine.py imports llamafw.sampling.chain.Chain", mine.test_it_imports_only_what_llamafw_exports)
    broken("loading it imports gguf", mine.test_loading_it_is_cheap)
    broken("idle.py imports llamafw_plugins.samplers", idle.test_it_imports_only_what_llamafw_exports)
    broken("implements no hook", idle.test_it_does_something)
    beside = suite(PluginConformance, None, name=idle.name, plugins=(*mine.plugins, *idle.plugins))
    beside.test_loading_it_is_cheap()  # whatever the others cost
    mine.test_it_does_something()


async def test_a_plugin_that_changes_what_nobody_asked_for(serve: Any, tmp_path: Any) -> None:
    (tmp_path / "zeal.py").write_text(
        "from dataclasses import replace\nfrom llamafw import hookimpl\n"
        "@hookimpl(wrapper=True)\n"
        "def prepare_request():\n    return replace((yield), seed=5, ignore_eos=True, logit_bias={5: -9})\n"
    )
    made = suite(PluginConformance, None, name="zeal", plugins=(str(tmp_path / "zeal.py"),))
    with pytest.raises(AssertionError, match="the answer is"):
        await made.test_answers_are_as_ever_until_it_is_asked(serve, tmp_path)


def test_errors_are_not_mistaken(write_model: Any) -> None:
    """What is refused as it should be is no fault."""
    refuses = SimpleNamespace(render=refuse(RequestError))
    suite(ChatFormatConformance, lambda context: refuses).test_what_it_cannot_write_it_refuses()
    weights(refuse(ModelError)).opens_or_says(None, "")


def refuse(kind: type[Exception]) -> Any:
    def raising(*given: Any, **named: Any) -> None:
        raise kind("no")

    return raising


def test_numbers_are_compared_to_the_bit() -> None:
    from llamafw.testing.conformance.base import same

    broken("1 of 2 numbers differ, by up to 1", same, np.array([1.0, 2.0]), np.array([1.0, 3.0]), "x")
    broken("the shape is", same, np.zeros(2), np.zeros(3), "x")


async def test_authenticators(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "lax.py").write_text(
        "from llamafw import User, hookimpl\n"
        "class Lax:\n"
        "    async def authenticate(self, credentials):\n"
        "        return User('x') if any(key.lower().startswith('key') for key in credentials.keys) else None\n"
        "@hookimpl\ndef register_authenticators(register, app): register('lax', Lax())\n"
    )
    made = suite(
        AuthenticatorConformance,
        None,
        name="lax",
        plugins=(str(tmp_path / "lax.py"),),
        settings=lambda self, folder: {},
        headers=lambda self, folder: {"X-Api-Key": "key-of-alice"},
    )
    await made.test_who_is_known_gets_in(serve, tmp_path)
    for test, message in (
        (made.test_a_key_that_is_a_little_wrong_is_refused(serve, tmp_path), "X-Api-Key: 'key-of-alic' is 200"),
        (made.test_a_server_that_it_was_not_asked_to_guard_is_open(serve), "without a key is 401"),
    ):
        with pytest.raises(AssertionError, match=message):
            await test
    made.headers = lambda folder: {"X-Api-Key": "other"}
    with pytest.raises(AssertionError, match=r"twenty requests of a user at once are \[401\]"):
        await made.test_who_is_known_gets_in(serve, tmp_path)
