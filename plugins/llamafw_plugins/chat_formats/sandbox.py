"""A Jinja sandbox whose templates end. It knows nothing of chat.

Jinja's own sandbox keeps a template from reaching Python; it does not keep one from running for ever or from filling
the memory, and templates come with model files, which are downloaded. So a parsed template is rewritten before it is
compiled: each pass through a loop or macro looks at the clock, and whatever makes texts or lists is measured.
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

from llamafw_plugins.chat_formats.meter import Meter, check_call, check_operator, drained, measured

NEEDLESS = ("urlize", "xmlattr", "striptags", "wordwrap", "random", "pprint")  # slow, or no use in a prompt


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox. `compile_text` makes templates, `run` renders them."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.meter = Meter()
        self.filters = {
            name: self._guarded(name, filter) for name, filter in self.filters.items() if name not in NEEDLESS
        }
        self.filters |= {"_tick": self._tick, "_written": self._written, "_joined": self._joined, "_made": self._made}
        del self.globals["lipsum"]

    def compile_text(self, text: str) -> Template:
        """Return the template; TemplateSyntaxError if it is none."""
        tree = _Metering().visit(self.parse(text))
        code = self.compile(tree, filename="<chat template>")
        return Template.from_code(self, code, self.make_globals(None))

    def run(self, template: Template, variables: Mapping[str, Any]) -> str:
        """Return what the template writes; LimitError if it takes too long or makes too much."""
        self.meter.start()
        try:
            return template.render(variables)
        finally:
            self.meter.stop()

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what the template calls; its arguments and its result are measured."""
        self.meter.tick()
        method = getattr(obj, "__wrapped__", obj)  # jinja wraps str.format
        check_call(getattr(method, "__name__", ""), (getattr(method, "__self__", None), *args), kwargs)
        return self._kept(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an arithmetic operator, if the result is not too large."""
        check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def _guarded(self, name: str, filter: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter whose arguments and result are measured."""
        first = 1 if hasattr(filter, "jinja_pass_arg") else 0

        @functools.wraps(filter)  # and with it the mark that says what jinja is to pass
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.meter.tick()
            check_call(name, args[first:], kwargs)
            return self._kept(filter(*args, **kwargs))

        return guarded

    def _kept(self, value: Any) -> Any:
        """Return a result that is not too large. What would be made later is made now, while it is measured."""
        return drained(value) if isinstance(value, Iterator) else measured(value)

    # what the rewritten template calls; pass_context keeps jinja from calling them while it compiles

    @pass_context
    def _tick(self, context: Context, value: None) -> None:
        self.meter.tick()

    @pass_context
    def _written(self, context: Context, value: Any) -> str:
        return self.meter.write(value if isinstance(value, str) else str(measured(value)))

    @pass_context
    def _joined(self, context: Context, parts: list[Any]) -> str:
        return "".join(drained(str(measured(part)) for part in parts))

    @pass_context
    def _made(self, context: Context, value: Any) -> Any:
        return measured(value)


class _Metering(NodeTransformer):
    """Puts calls of the meter into a parsed template."""

    def _body(self, node: Any, *args: Any) -> Any:
        self.generic_visit(node)
        node.body = [nodes.ExprStmt(_filter(nodes.Const(None), "_tick")), *node.body]
        return node

    visit_For = visit_Macro = visit_CallBlock = visit_Block = _body

    def visit_Output(self, node: nodes.Output, *args: Any) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_filter(part, "_written") for part in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat, *args: Any) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes), "_joined")

    def _literal(self, node: Any, *args: Any) -> Any:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") == "store" else _filter(node, "_made")

    visit_List = visit_Dict = visit_Tuple = _literal

    def visit_AssignBlock(self, node: nodes.AssignBlock, *args: Any) -> nodes.Node:
        self.generic_visit(node)
        node.filter = _filter(node.filter, "_made")
        return node


def _filter(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None)
