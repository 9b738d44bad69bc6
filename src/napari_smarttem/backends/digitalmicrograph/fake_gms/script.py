"""A small interpreter for DM-script: the statements the bridge's templates are made of, and no more.

Declarations (``number``, ``string``, ``Image``, ``TagGroup``), assignments with ``=`` and ``:=``, calls, method calls, ``if``
with one statement, numbers, strings, ``!``, comparison and arithmetic. Anything else raises, as an unknown function does in
GMS. A parsed script is kept by its shape, so that scripts that differ in their numbers only are parsed once.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<string>\"(?:[^\"\\]|\\.)*\")|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<op>:=|==|!=|<=|>=|[-+*/<>=!(),.&]))"
)
_TYPES = frozenset({"number", "string", "image", "taggroup"})
_BINARY: dict[str, tuple[int, Callable[[Any, Any], Any]]] = {
    "==": (1, lambda a, b: float(a == b)),
    "!=": (1, lambda a, b: float(a != b)),
    "<": (1, lambda a, b: float(a < b)),
    ">": (1, lambda a, b: float(a > b)),
    "<=": (1, lambda a, b: float(a <= b)),
    ">=": (1, lambda a, b: float(a >= b)),
    "+": (2, operator.add),
    "-": (2, operator.sub),
    "*": (3, operator.mul),
    "/": (3, operator.truediv),
}

Node = Callable[["_Run"], Any]


class ScriptError(RuntimeError):
    """What GMS shows in its output window: the script could not be executed."""


class Variable:
    """What a function with ``&`` parameters is given: it may assign."""

    def __init__(self, run: _Run, name: str) -> None:
        self._run, self._name = run, name

    @property
    def value(self) -> Any:
        """Present value."""
        return self._run.variables[self._name]

    @value.setter
    def value(self, value: Any) -> None:
        self._run.variables[self._name] = value


class _Run:
    def __init__(self, functions: Mapping[str, Callable[..., Any]], constants: list[Any]) -> None:
        self.functions = functions
        self.constants = constants
        self.variables: dict[str, Any] = {}


class Interpreter:
    """Executes DM-script with `functions`, found by their lower-case names as DM-script does not mind capitals.

    A function gets plain values; where a bare variable stands in a call, it gets a `Variable` if it is in `by_reference`.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]], by_reference: frozenset[str]) -> None:
        self.functions = functions
        self.by_reference = by_reference
        self._known: dict[tuple[Any, ...], list[Node]] = {}

    def execute(self, text: str) -> dict[str, Any]:
        """Run `text`; its variables afterwards."""
        shape, constants = _tokens(text)
        program = self._known.get(shape)
        if program is None:
            program = _Parser(shape, self.by_reference).program()
            if len(self._known) > 200:
                self._known.clear()
            self._known[shape] = program
        run = _Run(self.functions, constants)
        for statement in program:
            statement(run)
        return run.variables


def _tokens(text: str) -> tuple[tuple[Any, ...], list[Any]]:
    shape: list[Any] = []
    constants: list[Any] = []
    for written in text.split("\n"):
        at, line = 0, written.split("//")[0].rstrip().rstrip(";")
        while at < len(line):
            match = _TOKEN.match(line, at)
            if match is None:
                raise ScriptError(f"Syntax error in {line!r}.")
            at = match.end()
            kind = match.lastgroup
            if kind == "number":
                shape.append(("constant", len(constants)))
                constants.append(float(match["number"]))
            elif kind == "string":
                shape.append(("constant", len(constants)))
                constants.append(match["string"][1:-1].replace('\\"', '"'))
            else:
                shape.append((kind, match[kind or 0].lower() if kind == "name" else match["op"]))
        shape.append(("end", ""))
    return tuple(shape), constants


class _Parser:
    def __init__(self, tokens: tuple[Any, ...], by_reference: frozenset[str]) -> None:
        self.tokens, self.by_reference, self.at = tokens, by_reference, 0

    def program(self) -> list[Node]:
        found = []
        while self.at < len(self.tokens):
            if self._peek()[0] == "end":
                self.at += 1
                continue
            found.append(self._statement())
            self._expect("end", "")
        return found

    def _peek(self) -> tuple[str, Any]:
        token: tuple[str, Any] = self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")
        return token

    def _take(self) -> tuple[str, Any]:
        token = self._peek()
        self.at += 1
        return token

    def _expect(self, kind: str, text: str) -> None:
        if self._take() != (kind, text):
            raise ScriptError(f"Syntax error: {text or 'end of the line'} expected.")

    def _statement(self) -> Node:
        kind, text = self._peek()
        if kind == "name" and text in _TYPES:
            self.at += 1
            parts = [self._declaration()]
            while self._peek() == ("op", ","):
                self.at += 1
                parts.append(self._declaration())
            return lambda run: [part(run) for part in parts]
        if (kind, text) == ("name", "if"):
            self.at += 1
            self._expect("op", "(")
            condition = self._expression(0)
            self._expect("op", ")")
            then = self._statement()
            return lambda run: then(run) if condition(run) else None
        if kind == "name" and self.tokens[self.at + 1] in (("op", "="), ("op", ":=")):
            return self._declaration()
        return self._expression(0)

    def _declaration(self) -> Node:
        kind, name = self._take()
        if kind != "name":
            raise ScriptError("Syntax error: a name expected.")
        if self._peek() in (("op", "="), ("op", ":=")):
            self.at += 1
            value = self._expression(0)
            return lambda run: run.variables.__setitem__(name, value(run))
        return lambda run: run.variables.__setitem__(name, 0.0)

    def _expression(self, lowest: int) -> Node:
        left = self._unary()
        while self._peek()[0] == "op" and self._peek()[1] in _BINARY and _BINARY[self._peek()[1]][0] > lowest:
            level, action = _BINARY[self._take()[1]]
            left = _binary(action, left, self._expression(level))
        return left

    def _unary(self) -> Node:
        kind, text = self._take()
        if (kind, text) == ("op", "!"):
            inner = self._unary()
            return lambda run: float(not inner(run))
        if (kind, text) == ("op", "-"):
            inner = self._unary()
            return lambda run: -inner(run)
        if (kind, text) == ("op", "("):
            inner = self._expression(0)
            self._expect("op", ")")
            return inner
        if kind == "constant":
            return lambda run: run.constants[text]
        if kind != "name":
            raise ScriptError("Syntax error in an expression.")
        if self._peek() == ("op", "("):
            return self._call(text, None)
        node: Node = lambda run: run.variables[text]  # noqa: E731
        while self._peek() == ("op", "."):
            self.at += 1
            kind, method = self._take()
            node = self._call(method, node)
        return node

    def _call(self, name: str, receiver: Node | None) -> Node:
        self._expect("op", "(")
        arguments: list[Node] = [] if receiver is None else [receiver]
        while self._peek() != ("op", ")"):
            token = self._peek()
            bare = token[0] == "name" and self.tokens[self.at + 1] in (("op", ","), ("op", ")"))
            if bare and name in self.by_reference:
                self.at += 1
                arguments.append(_reference(token[1]))
            else:
                arguments.append(self._expression(0))
            if self._peek() == ("op", ","):
                self.at += 1
        self._expect("op", ")")

        def call(run: _Run) -> Any:
            function = run.functions.get(name)
            if function is None:
                raise ScriptError(f"Cannot find function named '{name}'.")
            return function(*[argument(run) for argument in arguments])

        return call


def _binary(action: Callable[[Any, Any], Any], left: Node, right: Node) -> Node:
    return lambda run: action(left(run), right(run))


def _reference(name: str) -> Node:
    return lambda run: Variable(run, name)
