"""A Jinja sandbox that limits a template's running time and memory.

Independent of chat.

Jinja's own sandbox keeps a template from reaching Python, but a template can still loop or fill the memory, and
templates come with downloaded model files. A parsed template is therefore rewritten before it is compiled: each run of
a loop's or a macro's body checks the time, and every text or list that the template makes is measured.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.environment import Template
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from llamafw_plugins.chat_formats.meter import LimitError, Meter, check_call, check_operator, checked

REMOVED_FILTERS = ("urlize", "xmlattr", "striptags", "wordwrap", "random", "pprint")  # slow, or useless in a prompt
MAX_NODES = 10_000  # of a parsed template; those of well-known models have up to 1,400
LIST_METHODS = ("append", "extend", "insert", "pop")  # allowed, though jinja's sandbox forbids them


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox: `compile_text` makes templates, `run` renders them."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def __init__(self, **options: Any) -> None:
        super().__init__(optimized=False, **options)  # constants are not computed where no time is measured
        self.meter = Meter()
        self.filters = {
            name: self._limited(name, filter) for name, filter in self.filters.items() if name not in REMOVED_FILTERS
        }
        self.filters |= {
            "_check_time": self._check_time,
            "_count_output": self._count_output,
            "_concatenate": self._concatenate,
            "_check": self._check,
        }
        del self.globals["lipsum"]

    def compile_text(self, text: str) -> Template:
        """Return the template; TemplateSyntaxError if it is not valid, LimitError if it is too long."""
        tree = self.parse(text)
        if _count_nodes(tree) > MAX_NODES:
            raise LimitError(f"it has more than {MAX_NODES} expressions and statements")
        tree = _Metering().visit(tree)
        code = self.compile(tree, filename="<chat template>")
        return Template.from_code(self, code, self.make_globals(None))

    def run(self, template: Template, variables: Mapping[str, Any]) -> str:
        """Return the template's output; LimitError if it takes too long or makes too much."""
        self.meter.start(variables)
        try:
            return template.render(variables)
        finally:
            self.meter.stop()

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function for the template, with its arguments and its result measured."""
        self.meter.check_time()
        method = getattr(obj, "__wrapped__", obj)  # jinja wraps str.format
        if isinstance(getattr(method, "__self__", None), list):
            self.meter.count_memory(args)  # a list keeps what it is given
        check_call(getattr(method, "__name__", ""), (getattr(method, "__self__", None), *args), kwargs)
        return self._checked_result(super().call(context, obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Return whether a template may use an attribute; methods that change lists are allowed."""
        return (isinstance(obj, list) and attr in LIST_METHODS) or super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an arithmetic operator unless its result would be too large."""
        check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def _limited(self, name: str, filter: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter with its arguments and its result measured."""
        first = 1 if hasattr(filter, "jinja_pass_arg") else 0

        @functools.wraps(filter)  # also copies the mark that makes jinja pass a context
        def limited(*args: Any, **kwargs: Any) -> Any:
            self.meter.check_time()
            check_call(name, args[first:], kwargs)
            return self._checked_result(filter(*args, **kwargs))

        return limited

    def _checked_result(self, value: Any) -> Any:
        """Return a result after checking its size.

        An iterator is read now, in order to measure it.
        """
        return self.meter.read_iterator(value) if isinstance(value, Iterator) else checked(value)

    # The rewritten template calls these as filters. pass_context keeps jinja from calling them while it compiles.

    @pass_context
    def _check_time(self, context: Context, value: None) -> None:
        self.meter.check_time()

    @pass_context
    def _count_output(self, context: Context, value: Any) -> str:
        return self.meter.count_output(value if isinstance(value, str) else str(checked(value)))

    @pass_context
    def _concatenate(self, context: Context, parts: list[Any]) -> str:
        return "".join(self.meter.read_iterator(str(checked(part)) for part in parts))

    @pass_context
    def _check(self, context: Context, value: Any) -> Any:
        return checked(value)


class _Metering(NodeTransformer):
    """Adds calls of the filters above to a parsed template."""

    def _body(self, node: Any, *args: Any) -> Any:
        self.generic_visit(node)
        node.body = [nodes.ExprStmt(_filter(nodes.Const(None), "_check_time")), *node.body]
        return node

    visit_For = visit_Macro = visit_CallBlock = visit_Block = _body

    def visit_Output(self, node: nodes.Output, *args: Any) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_filter(part, "_count_output") for part in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat, *args: Any) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes), "_concatenate")

    def _literal(self, node: Any, *args: Any) -> Any:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") == "store" else _filter(node, "_check")

    visit_List = visit_Dict = visit_Tuple = _literal

    def visit_AssignBlock(self, node: nodes.AssignBlock, *args: Any) -> nodes.Node:
        self.generic_visit(node)
        node.filter = _filter(node.filter, "_check")
        return node


def _count_nodes(tree: nodes.Node) -> int:
    """Return the number of nodes in a parsed template."""
    n, rest = 0, [tree]
    while rest:
        n += 1
        rest.extend(rest.pop().iter_child_nodes())
    return n


def _filter(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None)
