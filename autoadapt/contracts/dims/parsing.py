"""Parsing: a form from text, by this grammar; nothing of the text is ever evaluated as Python.

sum       product (("+" | "-") product)*
product   factor ("*" factor | "//" integer)*
factor    "-" factor | integer | axis | "(" sum ")" | call
call      ("floor" | "ceil") "(" (product "/" integer | sum) ")" | "max" "(" sum "," sum ")"
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from autoadapt.contracts.dims.forms import Form
from autoadapt.errors import Mismatch, SignatureError

RESERVED = ("ceil", "floor", "max")
"""Names of functions, which no axis may have."""

TOKEN = re.compile(r"\s*(?:(?P<integer>[0-9]+)|(?P<name>[A-Za-z_][A-Za-z_0-9]*)|(?P<sign>//|[-+*/(),]))")
DEEPEST = 50
_ROUNDED = "H//4, which rounds down, or ceil(H/4), which rounds up"
LONGEST_TEXT = 2000
LONGEST_INTEGER = 18


def parse_form(text: str) -> Form:
    """The form that a text describes.

    Example:
        >>> parse_form("ceil(H/32)") == (Form.axis("H") + Form.of(31)) // 32
        True

    Raises:
        SignatureError: The text is no dim; the message names the column of the first fault.
    """
    if len(text) > LONGEST_TEXT:
        fault = Mismatch(f"{text[:20]!r}...", f"at most {LONGEST_TEXT} characters", f"{len(text):,}", "a shorter dim")
        raise SignatureError("a dim is too long", [fault])
    reader = _Reader(text, _tokens(text))
    form = reader.sum()
    if reader.kind != "end":
        raise reader.fault("an operator or the end of the text")
    return form


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    column: int


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    end = len(text.rstrip())
    position = 0
    while position < end:
        found = TOKEN.match(text, position)
        if found is None or found.lastgroup is None:
            column = position + len(text[position:]) - len(text[position:].lstrip()) + 1
            raise _fault(text, column, "an integer, an axis, an operator or a parenthesis", repr(text[column - 1]))
        kind, word = found.lastgroup, found[found.lastgroup]
        column = found.end() - len(word) + 1
        if kind == "integer" and len(word) > LONGEST_INTEGER:
            raise _fault(text, column, f"an integer of at most {LONGEST_INTEGER} digits", f"{len(word)} digits")
        tokens.append(_Token(word if kind == "sign" else kind, word, column))
        position = found.end()
    return [*tokens, _Token("end", "", end + 1)]


def _fault(text: str, column: int, expected: str, found: str, remedy: str = "") -> SignatureError:
    fault = Mismatch(f"column {column} of {text!r}", expected, found, remedy or 'for example "2*ceil(H/32) + 1"')
    return SignatureError(f"{text!r} is not a dim, from column {column}", [fault])


class _Reader:
    """A recursive-descent parser over the tokens of one text: a method for each rule of the grammar."""

    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self.text = text
        self.tokens = tokens
        self.index = 0
        self.depth = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.index]

    @property
    def kind(self) -> str:
        return self.token.kind

    def fault(self, expected: str, remedy: str = "") -> SignatureError:
        found = repr(self.token.text) if self.kind != "end" else "the end of the text"
        return _fault(self.text, self.token.column, expected, found, remedy)

    def take(self, kind: str, expected: str) -> str:
        """The text of the next token, which has to be of this kind."""
        if self.kind != kind:
            if self.kind == "/":
                raise self.fault(expected, _ROUNDED)
            raise self.fault(expected)
        self.index += 1
        return self.tokens[self.index - 1].text

    def sum(self) -> Form:
        return self.rest_of_sum(self.product())

    def rest_of_sum(self, total: Form) -> Form:
        while self.kind in ("+", "-"):
            sign = self.take(self.kind, "a sign")
            term = self.product()
            total = total + term if sign == "+" else total - term
        if self.kind == "/":
            raise self.fault("an operator", _ROUNDED)
        return total

    def product(self) -> Form:
        total = self.factor()
        while self.kind in ("*", "//"):
            sign = self.take(self.kind, "a sign")
            total = total * self.factor() if sign == "*" else total // self.divisor()
        return total

    def divisor(self) -> int:
        if self.kind != "integer" or int(self.token.text) == 0:
            raise self.fault("a divisor: an integer of 1 or more")
        return int(self.take("integer", "a divisor"))

    def factor(self) -> Form:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.fault(f"at most {DEEPEST} levels of nesting")
        form = self._factor()
        self.depth -= 1
        return form

    def _factor(self) -> Form:
        match self.kind:
            case "-":
                self.take("-", "a sign")
                return -self.factor()
            case "integer":
                return Form.of(int(self.take("integer", "an integer")))
            case "(":
                self.take("(", "a parenthesis")
                form = self.sum()
                self.take(")", "')'")
                return form
            case "name" if self.token.text in RESERVED:
                return self.call()
            case "name":
                return Form.axis(self.take("name", "an axis"))
            case _:
                raise self.fault("an integer, an axis, '(', 'floor', 'ceil' or 'max'")

    def call(self) -> Form:
        name = self.take("name", "a function")
        self.take("(", f"'(' after {name}")
        form = self.maximum() if name == "max" else self.quotient(name)
        self.take(")", "')'")
        return form

    def quotient(self, name: str) -> Form:
        numerator = self.product()
        if self.kind != "/":
            return self.rest_of_sum(numerator)
        self.take("/", "'/'")
        divisor = self.divisor()
        return (numerator if name == "floor" else numerator + Form.of(divisor - 1)) // divisor

    def maximum(self) -> Form:
        first = self.sum()
        self.take(",", "',' between the two arguments of max")
        start = self.token
        second = self.sum()
        if first.axes and second.axes:
            raise _fault(self.text, start.column, "a constant in one argument of max", "an axis in both")
        return second.at_least(first.constant) if not first.axes else first.at_least(second.constant)
