"""What a request may say: one table that checks requests and describes them in OpenAPI.

Values are numbers and names of loaded models, nothing else: no text from a request is ever taken for a path. Ranges
that depend on the model are the model's to check.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import errors
from .limits import Refused


@dataclass(frozen=True)
class Field:
    """A named value: `kind` is "number", "integer" or "string", as in JSON."""

    name: str
    kind: str
    text: str
    low: float | None = None
    high: float | None = None
    default: Any = None

    def schema(self) -> dict[str, Any]:
        bounds = {"minimum": self.low, "maximum": self.high, "default": self.default}
        return {"type": self.kind, "description": self.text} | {k: v for k, v in bounds.items() if v is not None}

    def check(self, value: Any) -> Any:
        """`value` out of JSON, if it is of this kind and in range."""
        if self.kind == "string":
            if isinstance(value, str):
                return value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            whole = isinstance(value, int) or (abs(value) < 2**53 and value.is_integer())
            if self.kind == "integer" and whole:
                return self._in_range(int(value))
            if self.kind == "number" and (isinstance(value, float) or abs(value) < 2**64):
                return self._in_range(float(value))
        what = {"integer": "a whole number", "number": "a number", "string": "a name"}[self.kind]
        raise Refused(400, f"{self.name}={short(value)}; expected {what}")

    def parse(self, text: str) -> Any:
        """A value out of a query string."""
        if self.kind == "string":
            return text
        try:
            return self.check(int(text) if self.kind == "integer" else float(text))
        except ValueError:  # not a number, or too many digits
            return self.check(text)

    def _in_range(self, value: Any) -> Any:
        low, high = self.low, self.high
        if (
            (isinstance(value, float) and not math.isfinite(value))
            or (low is not None and value < low)
            or (high is not None and value > high)
        ):
            span = " ".join(f"{word} {bound:g}" for word, bound in (("from", low), ("to", high)) if bound is not None)
            raise Refused(400, f"{self.name}={short(value)}; it must be a number {span}".rstrip())
        return value


def from_query(pairs: Iterable[tuple[str, str]], fields: Mapping[str, Field]) -> dict[str, Any]:
    """The values of a query string, each known and given once."""
    found: dict[str, Any] = {}
    for name, text in pairs:
        if name in found:
            raise Refused(400, f"{short(name)} is given twice; give it once")
        found[name] = _known(name, fields).parse(text)
    return found


def from_json(content: Any, fields: Mapping[str, Field], keep_null: bool = False) -> dict[str, Any]:
    """The values of a JSON object, each known; null is left out, or None where it means something."""
    if not isinstance(content, dict):
        raise Refused(400, "expected a JSON object")
    given = {name: value for name, value in content.items() if keep_null or value is not None}
    known = {name: _known(name, fields) for name in given}
    return {name: None if value is None else known[name].check(value) for name, value in given.items()}


def parse_json(text: str | bytes) -> Any:
    """Strict JSON: no NaN, nothing nested without end."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused(400, "the request is not JSON") from None


def only_numbers(value: Any, name: str) -> Any:
    """`value`, if nothing in it is text: a condition's text would be the name of a file."""
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, dict | list):
            rest.extend(item.values() if isinstance(item, dict) else item)
        elif isinstance(item, str):
            raise Refused(400, f"{name}: holds the text {short(item)}; only numbers are expected")
    return value


def short(value: Any) -> str:
    """For messages, as `errors.short`, but spelled in ASCII: anybody may have written it."""
    huge = isinstance(value, int) and abs(value) >= 2**128
    return "a huge number" if huge else errors.short(ascii(value))


def _known(name: str, fields: Mapping[str, Field]) -> Field:
    if name not in fields:
        raise Refused(400, f"{short(name)} is not known here; there are {', '.join(fields)}")
    return fields[name]


def _no_constant(name: str) -> float:
    raise ValueError(name)
