"""Partial responses: the `fields` parameter that every method has.

Source: "Partial responses" in Google's API guides: names with commas between, "/" for what is within,
"(...)" for several of one thing, "*" for each member.
"""

import re
from typing import Any

Mask = dict[str, "Mask"]
_TOKEN = re.compile(r"[A-Za-z_][\w-]*|[*(),/]")


class BadFields(ValueError):
    """The selector is none."""


def selector(text: str) -> Mask:
    """What a selector selects: names, and what of each; nothing there: all of it. Raises BadFields."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text or not tokens:
        raise BadFields(text)
    mask, rest = _several(tokens, text)
    if rest:
        raise BadFields(text)
    return mask


def selected(value: Any, mask: Mask) -> Any:
    """The part of an answer. Lists are seen through; a thing of which nothing is selected is left out."""
    if not mask:
        return value
    if isinstance(value, list):
        return [selected(one, mask) for one in value]
    if not isinstance(value, dict):
        return value
    made = {}
    for name, held in value.items():
        inner = [mask[one] for one in (name, "*") if one in mask]
        if inner:
            merged: Mask = {}
            for one in inner:
                merged |= one
            made[name] = selected(held, merged)
    return {name: held for name, held in made.items() if held != {} or value[name] == {}}


def _several(tokens: list[str], whole: str) -> tuple[Mask, list[str]]:
    mask: Mask = {}
    while True:
        tokens = _one(tokens, mask, whole)
        if tokens[:1] != [","]:
            return mask, tokens
        tokens = tokens[1:]


def _one(tokens: list[str], into: Mask, whole: str) -> list[str]:
    if not tokens or tokens[0] in "(),/":
        raise BadFields(whole)
    inner = into.setdefault(tokens[0], {})
    rest = tokens[1:]
    if rest[:1] == ["/"]:
        return _one(rest[1:], inner, whole)
    if rest[:1] == ["("]:
        held, rest = _several(rest[1:], whole)
        if rest[:1] != [")"]:
            raise BadFields(whole)
        inner |= held
        return rest[1:]
    return rest
