"""Compute Engine's filter expressions, as far as its list methods are asked with them here.

Source: the description of the `filter` parameter in the discovery document.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

Predicate = Callable[[Mapping[str, Any]], bool]
_TOKEN = re.compile(r"""\s*(?:(?P<mark>[()])|(?P<text>"[^"]*")|(?P<word>!=|[=:>]|[^\s()"=!:>]+))""")


class BadFilter(ValueError):
    """The expression is none, or of a kind that this fake does not know."""


def parsed(expression: str) -> Predicate:
    """What an expression selects. Raises BadFilter."""
    tokens, at = list[str](), 0
    while at < len(expression.rstrip()):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise BadFilter(expression)
        tokens.append(match["mark"] or match["text"] or match["word"])
        at = match.end()
    predicate, rest = _any(tokens, expression)
    if rest:
        raise BadFilter(expression)
    return predicate


def _any(tokens: list[str], whole: str) -> tuple[Predicate, list[str]]:
    first, tokens = _all(tokens, whole)
    parts = [first]
    while tokens and tokens[0] == "OR":
        part, tokens = _all(tokens[1:], whole)
        parts.append(part)
    return lambda one: any(part(one) for part in parts), tokens


def _all(tokens: list[str], whole: str) -> tuple[Predicate, list[str]]:
    first, tokens = _one(tokens, whole)
    parts = [first]
    while tokens and tokens[0] not in ("OR", ")"):
        part, tokens = _one(tokens[1:] if tokens[0] == "AND" else tokens, whole)
        parts.append(part)
    return lambda one: all(part(one) for part in parts), tokens


def _one(tokens: list[str], whole: str) -> tuple[Predicate, list[str]]:
    if tokens[:1] == ["("]:
        inner, rest = _any(tokens[1:], whole)
        if rest[:1] != [")"]:
            raise BadFilter(whole)
        return inner, rest[1:]
    if len(tokens) < 3:
        raise BadFilter(whole)
    field, operator, value = tokens[0], tokens[1], tokens[2].strip('"')
    rest = tokens[3:]
    match operator:
        case "=":
            return lambda one: _said(one, field) == value, rest
        case "!=":
            return lambda one: _said(one, field) != value, rest
        case ":" if value == "*":
            return lambda one: _said(one, field) is not None, rest
        case ">" if field.endswith("Time"):
            since = _time(value, whole)
            return lambda one: _time(_said(one, field) or "", whole) > since, rest
        case "eq":
            wanted = _pattern(value, whole)
            return lambda one: wanted.fullmatch(_said(one, field) or "") is not None, rest
        case "ne":
            unwanted = _pattern(value, whole)
            return lambda one: unwanted.fullmatch(_said(one, field) or "") is None, rest
        case _:
            raise BadFilter(whole)


def _time(text: str, whole: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise BadFilter(whole) from error


def _pattern(text: str, whole: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise BadFilter(whole) from error


def _said(one: Mapping[str, Any], field: str) -> str | None:
    value: Any = one
    for name in field.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if value is None:
        return None
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
