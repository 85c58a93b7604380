"""Jinja for templates that come with downloaded models: no access to Python, bounded time and memory.

`ImmutableSandboxedEnvironment` keeps a template from reaching Python's internals. It does not keep it from
looping or doubling a text for ever, so here every loop turn, macro call and output is charged to a budget,
and every value that an operator, a filter or a call takes or gives is measured. No single step can then cost
much more than the budget allows, without a thread, a signal or a second process.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension, LoopControlExtension
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_TEMPLATE_CHARS = 1 << 18
MAX_CHARS = 1 << 24
"""Characters that one rendering may write, and that one value in it may hold."""
MAX_PARTS = 1 << 20
"""Elements that one value may hold, containers counted through."""
MAX_CPU_S = 5.0
"""Processor time of one rendering."""
MAX_ARGUMENT = 4096
"""Largest whole number that a method of a text, or a filter, may be given (widths, counts)."""

_UNSAFE_TEXT_METHODS = {"expandtabs", "translate", "maketrans", "encode"}
_DROPPED_FILTERS = {"center", "format", "pprint", "random", "urlize", "wordwrap", "xmlattr"}
_DROPPED_GLOBALS = ("lipsum", "cycler")
_TICK, _JOIN, _MEASURE = "mix-core tick", "mix-core join", "mix-core measure"
# A width of four digits or more, or one that comes from an argument, after % or within braces.
_WIDE_PERCENT = re.compile(r"%(\([^)]*\))?[-+ #0]*(\d{4,}|\*|\d*\.(\d{4,}|\*))")
_WIDE_BRACES = re.compile(r"\{[^{}]*(\d{4,}|\{)")


class Budget:
    """What one rendering has left."""

    def __init__(self) -> None:
        self.chars_left = MAX_CHARS
        self.steps = 0
        self.deadline_s = time.thread_time() + MAX_CPU_S

    def charge(self, chars: int) -> None:
        self.chars_left -= chars
        if self.chars_left < 0:
            raise SecurityError(f"it writes more than {MAX_CHARS} characters")
        self.steps += 1
        if self.steps % 16 == 0 and time.thread_time() > self.deadline_s:  # the clock is a system call
            raise SecurityError(f"it takes more than {MAX_CPU_S:g} s of processor time")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that chat templates are written for (as transformers sets it up), with budgets."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_finalize,
            extensions=[LoopControlExtension, _GenerationBlocks],
        )
        self._running = threading.local()
        for name in _DROPPED_GLOBALS:
            self.globals.pop(name, None)
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        kept = {name: f for name, f in self.filters.items() if name not in _DROPPED_FILTERS}
        kept["tojson"] = _to_json
        self.filters = {name: self._guarded(name, function) for name, function in kept.items()}
        self.filters |= {_TICK: self._tick, _JOIN: self._join, _MEASURE: self._measured}

    def render(self, source: str, variables: dict[str, Any]) -> str:
        """Render ``source``. Raises jinja2.TemplateError (SecurityError where a limit is passed)."""
        self._running.budget = Budget()
        try:
            return self.compiled(source).render(variables)
        except (RecursionError, MemoryError, OverflowError) as error:
            raise SecurityError(f"it needs too much ({type(error).__name__}: {error})") from error
        finally:
            self._running.budget = None

    def compiled(self, source: str) -> Any:
        """The template, compiled once."""
        if len(source) > MAX_TEMPLATE_CHARS:
            raise SecurityError(f"it has {len(source)} characters, the limit is {MAX_TEMPLATE_CHARS}")
        cached = self.__dict__.setdefault("_compiled", {})
        if source not in cached:
            tree = _Instrument().visit(self.parse(source))
            cached[source] = self.template_class.from_code(self, self.compile(tree), self.make_globals(None))
        return cached[source]

    # What the compiled template calls.

    def charge(self, chars: int) -> None:
        self._running.budget.charge(chars)

    def _tick(self, chars: int) -> None:
        """One turn of a loop or one call of a macro whose body holds ``chars`` fixed characters."""
        self._running.budget.charge(chars)

    def _join(self, *parts: Any) -> str:
        """The ``~`` operator."""
        self.measure(*parts)
        return "".join(map(str, parts))

    def _measured(self, value: Any) -> Any:
        """A list, tuple or dict that the template builds."""
        self.measure(value)
        return value

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self.measure(*args, *kwargs.values(), namespaces=isinstance(__obj, Macro))
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            _check_growth(getattr(__obj, "__name__", ""), owner, args)
        result = super().call(__context, __obj, *args, **kwargs)
        __self.measure(result, namespaces=True)
        return result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.measure(left, right)
        if operator == "**" and not (isinstance(right, (int, float)) and abs(right) <= 64):
            raise SecurityError(f"it raises a number to the power {right!r}")
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(text, (str, list, tuple)) and isinstance(times, int):
                    _check_chars(len(text) * times)
        if operator == "%" and isinstance(left, str) and _WIDE_PERCENT.search(left):
            raise SecurityError(f"it formats with {left[:40]!r}")
        result = super().call_binop(context, operator, left, right)
        self.measure(result)
        return result

    def wrap_str_format(self, value: Any) -> Any:
        owner = getattr(value, "__self__", None)
        if (
            isinstance(owner, str)
            and value.__name__ in ("format", "format_map")
            and _WIDE_BRACES.search(owner.replace("{{", "").replace("}}", ""))
        ):
            raise SecurityError(f"it formats with {owner[:40]!r}")
        return super().wrap_str_format(value)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _UNSAFE_TEXT_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def measure(self, *values: Any, namespaces: bool = False) -> None:
        """Refuse values that are too large, counted through containers; charge the time this takes."""
        self._running.budget.charge(0)
        if all(type(value) is str and len(value) < 4096 for value in values):
            return
        stack, parts, chars = list(values), 0, 0
        while stack:
            value = stack.pop()
            parts += 1
            if isinstance(value, str):
                chars += len(value)
            elif isinstance(value, dict):
                stack.extend(value.keys())
                stack.extend(value.values())
            elif isinstance(value, (list, tuple, set)):
                stack.extend(value)
            elif isinstance(value, int) and value.bit_length() > 256:
                raise SecurityError(f"it computes a number of {value.bit_length()} bits")
            elif isinstance(value, Namespace) and not (namespaces and parts <= len(values)):
                raise SecurityError("it puts a namespace into another value")
            if parts + len(stack) > MAX_PARTS:
                raise SecurityError(f"it builds a value of more than {MAX_PARTS} elements")
        _check_chars(chars)

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        skip = 1 if hasattr(function, "jinja_pass_arg") else 0

        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if name == "join" and len(args) > skip and not isinstance(args[skip], str):
                args = (*args[:skip], list(args[skip]), *args[skip + 1 :])
            given = (*args[skip:], *kwargs.values())
            self.measure(*given)
            if given and isinstance(given[0], str):
                _check_growth(name, given[0], given[1:])
            elif name == "join" and given:
                _check_chars(len(given[0]) * sum(len(g) for g in given[1:] if isinstance(g, str)))
            result = function(*args, **kwargs)
            self.measure(result)
            return result

        return guarded


class _GenerationBlocks(Extension):
    """``{% generation %}`` marks assistant text for other tools; here its body is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Instrument(NodeTransformer):
    """Puts `_tick` into loops and macros, and `_join` and `_measured` in place of what builds values.

    They are called as filters: those are local variables of the compiled template, and no template can name
    these.
    """

    def _with_tick(self, node: Any) -> Any:
        chars = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_filter(_TICK, nodes.Const(chars))))
        return node

    visit_For = visit_Macro = visit_CallBlock = _with_tick

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(_JOIN, *node.nodes)

    def _measured(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _filter(_MEASURE, node)

    visit_List = visit_Tuple = visit_Dict = _measured


def _filter(name: str, first: Any, *others: Any) -> nodes.Filter:
    return nodes.Filter(first, name, list(others), [], None, None)


@pass_context
def _finalize(context: Any, value: Any) -> Any:
    """Charge what is written, in captured blocks too, before it becomes text."""
    environment = context.environment
    if not isinstance(value, str):
        environment.measure(value)
        value = str(value)
    environment.charge(len(value))
    return value


def _check_chars(chars: int) -> None:
    if chars > MAX_CHARS:
        raise SecurityError(f"it builds a text of {chars} characters, the limit is {MAX_CHARS}")


def _check_growth(method: str, text: str, args: tuple[Any, ...]) -> None:
    """Refuse a method or filter of ``text`` whose result would be too long, before it is computed."""
    numbers = [abs(a) for a in args if isinstance(a, int)]
    if any(number > MAX_ARGUMENT for number in numbers):
        raise SecurityError(f"it calls {method} with {max(numbers)}, the limit is {MAX_ARGUMENT}")
    texts = [a for a in args if isinstance(a, str)]
    if method == "replace" and len(texts) == 2:
        _check_chars(len(text) + text.count(texts[0]) * len(texts[1]))
    elif method == "join":
        counts = [len(a) for a in args if hasattr(a, "__len__")]
        _check_chars(len(text) * max(counts, default=1))
    elif method == "indent":
        width = max([4, *numbers, *map(len, texts)])
        _check_chars(len(text) + (text.count("\n") + 1) * width)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """JSON without HTML escapes: templates write prompts, not pages."""
    if isinstance(indent, int) and indent > 16:
        raise SecurityError(f"it indents JSON by {indent}")
    kept = {key: options[key] for key in ("separators", "sort_keys") if key in options}
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **kept)


def _raise_exception(message: str) -> None:
    """What a template calls to refuse a conversation."""
    raise TemplateRefusal(message)


class TemplateRefusal(TemplateError):
    """The template itself refused the messages."""
