"""Templates that would run for ever or fill the memory are stopped."""

from __future__ import annotations

import gc

import pytest

from llamafw import ChatCapabilities, ChatContext, ModelError, RequestError
from llamafw.engine.call_probe import render_call
from llamafw.engine.chat_probe import probe_chat
from llamafw_plugins.chat_formats import meter
from llamafw_plugins.chat_formats.jinja import MAX_TEMPLATE, JinjaChatFormat

pytestmark = pytest.mark.slow

MILLION = "{% set s = 'a' * 1000000 %}"


def repeated(step: str, start: str) -> str:
    """Return a template that applies ``step`` to ``ns.x`` 60 times: doubling makes it 10¹⁸ times as large."""
    return f"{{% set ns = namespace(x={start}, y=[1]) %}}{{% for i in range(60) %}}{step}{{% endfor %}}{{{{ ns.x }}}}"


SLOW = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "assignments": "{% for a in range(99999) %}{% for b in range(99999) %}{% set x = b %}{% endfor %}{% endfor %}",
    "filtered loops": "{% for a in range(99999) %}{% for b in range(99999) if b < 0 %}{% endfor %}{% endfor %}",
    "recursive loops": "{% for a in range(99999) recursive %}{{ loop(range(99999)) if loop.depth < 3 }}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(30) }}",
    "calls": "{% macro g() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    "{% macro f(n) %}{% if n %}{% call g() %}{{ f(n - 1) }}{% endcall %}{% endif %}{% endmacro %}{{ f(30) }}",
    "iterators": "{% set l = range(99999)|list %}{{ l|select('in', l)|list }}",
    "filters": "{% set l = range(99999)|list %}{% for i in l %}{% set x = l|sort(reverse=true) %}{% endfor %}",
}
LARGE = {
    "constants": "{% for a in range(99999) %}{% for b in range(99999) %}" + "a" * 999 + "{% endfor %}{% endfor %}",
    "prints": MILLION + "{% for i in range(99999) %}{{ s }}{% endfor %}",
    "macro prints": MILLION + "{% macro f() %}{% for i in range(99) %}{{ s }}{% endfor %}{% endmacro %}{{ f()[0] }}",
    "product": "{{ 'a' * 10 ** 10 }}",
    "product of lists": "{% set n = 10 ** 10 %}{{ n * [1] }}",
    "numbers": repeated("{% set ns.x = ns.x * ns.x %}", "3"),
    "powers": "{% set n = 9 %}{{ n ** (n ** (n ** n)) }}",
    "sums": repeated("{% set ns.x = ns.x + ns.x %}", "'a'"),
    "concatenations": repeated("{% set ns.x = ns.x ~ ns.x %}", "'a'"),
    "lists": repeated("{% set ns.x = ns.x + ns.x %}", "[1]"),
    "nested lists": repeated("{% set ns.x = [ns.x, ns.x] %}", "[1]"),
    "nested tuples": repeated("{% set ns.x = (ns.x, ns.x) %}", "(1,)"),
    "nested dicts": repeated("{% set ns.x = {'a': ns.x, 'b': ns.x} %}", "{}"),
    "nested calls": repeated("{% set ns.x = dict(a=ns.x, b=ns.x) %}", "{}"),
    "comparisons": repeated("{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}", "[1]") + "{{ ns.x == ns.y }}",
    "blocks": repeated("{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}", "'ab'"),
    "macros": "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}" + repeated("{% set ns.x = m(ns.x) %}", "'ab'"),
    "center": "{{ 'a'|center(1000000000) }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "percent": "{{ '%999999999d' % 1 }}",
    "percent star": "{{ '%*d'|format(999999, 1) }}",
    "percent many": MILLION + "{{ ('%s' * 1000) % s }}",
    "format": "{{ '{:999999999}'.format(1) }}",
    "format nested": "{{ '{:{w}}'.format(1, w='999999999') }}",
    "format map": "{{ '{a:999999999}'.format_map({'a': 1}) }}",
    "format many": MILLION + "{{ ('{0}' * 1000).format(s) }}",
    "replace": MILLION + "{{ s.replace('a', s) }}",
    "replace filter": MILLION + "{{ s|replace('a', s) }}",
    "replace nothing": MILLION + "{{ s|replace('', s) }}",
    "join": MILLION + "{{ s.join(s) }}",
    "join filter": MILLION + "{{ range(99999)|join(s) }}",
    "join later": MILLION + "{{ range(99999)|map(attribute='q', default=s)|join }}",
    "indent": "{{ ('\n' * 1000000)|indent(1000) }}",
    "expandtabs": "{{ ('\t' * 1000000).expandtabs(1000) }}",
    "sum of lists": "{{ ([[1]] * 400000)|sum(start=[])|length }}",
    "indented json": "{{ messages|tojson(indent=100000) }}",
}


def check_stopped(template: str) -> None:
    """Fail unless the template is stopped by a limit."""
    format = JinjaChatFormat(template, ChatContext())
    with pytest.raises(RequestError, match="the chat template was stopped: (it|.* is given)"):
        format.render([{"role": "user", "content": "Hi"}])


@pytest.mark.timeout(60)  # each would run for hours
@pytest.mark.parametrize("name", SLOW)
def test_slow_templates_are_stopped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "MAX_SECONDS", 0.1)
    check_stopped(SLOW[name])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", LARGE)
def test_large_values_are_stopped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "MIN_SECONDS", 60)  # only size may stop it
    monkeypatch.setattr(meter, "MAX_SECONDS", 60)
    check_stopped(LARGE[name])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", SLOW)
def test_probing_a_slow_template_ends(name: str) -> None:
    format = JinjaChatFormat(SLOW[name], ChatContext())
    assert probe_chat(format) == ChatCapabilities()
    render_call(format)


@pytest.mark.parametrize("part", ["{{ a }}", "{% if a %}b{% endif %}", "{{ a|replace('b', 'c') }}"])
def test_templates_of_too_many_parts_are_not_compiled(part: str) -> None:
    template = part * (MAX_TEMPLATE // len(part))
    with pytest.raises(ModelError, match="the chat template is too long: it has more than 10000"):
        JinjaChatFormat(template, ChatContext())


def test_the_time_limit_grows_with_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "MIN_SECONDS", 0.0)
    format = JinjaChatFormat("{% for m in messages %}{{ m.content }}{% endfor %}", ChatContext())
    long = [{"role": "user", "content": "a" * 2**20}]
    assert format.render(long) == "a" * 2**20
    with pytest.raises(RequestError, match=r"it takes more than 0.0\d+ seconds"):
        JinjaChatFormat(SLOW["loops"], ChatContext()).render([{"role": "user", "content": "a" * 100}])


def test_long_conversations_are_rendered() -> None:
    template = "{% for m in messages %}{{ '<' + m.role + '>' + m.content|trim ~ '\\n' }}{% endfor %}"
    messages = [{"role": "user", "content": f"{i} " + "word " * 500} for i in range(2000)]
    text = JinjaChatFormat(template, ChatContext()).render(messages)
    assert text == "".join(f"<user>{message['content'].strip()}\n" for message in messages)


def test_each_rendering_has_its_own_limits() -> None:
    format = JinjaChatFormat("{{ 'a' * 5000000 }}", ChatContext())
    assert {len(format.render([])) for _ in range(3)} == {5000000}


@pytest.mark.parametrize(
    ("value", "size"), [("abc", 3), (7, 8), ([], 8), (["ab", 1], 8 + 10 + 8), ({"a": ["b"]}, 8 + 9 + 8 + 9)]
)
def test_size_of_values(value: object, size: int) -> None:
    assert meter.size_of(value) == size


def test_the_time_of_the_garbage_collector_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now, measured, n_callbacks = [0.0], meter.Meter(), len(gc.callbacks)
    monkeypatch.setattr("time.thread_time", lambda: now[0])
    measured.start("short")
    (callback,) = gc.callbacks[n_callbacks:]
    now[0] = 0.1
    callback("start", {})
    now[0] = 9.1
    callback("stop", {})
    measured.check_time()
    now[0] = 9.3
    with pytest.raises(meter.LimitError):
        measured.check_time()
    measured.stop()
    assert len(gc.callbacks) == n_callbacks
