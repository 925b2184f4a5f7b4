"""Pages of the docs that are made of the code. `python -m tests.deploy.pages` writes them again."""

from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from actors.events import Envelope, Fact, Request
from providers.model import Value

DOCS = Path(__file__).parents[2] / "deploy" / "docs"

EVENTS = """\
# Events

Everything that happens is an event: a *Request* asks for something, a *Fact* tells what happened. Each
is one JSON object with `kind`, inside an envelope. `GET /v1/events` gives them in the order of `seq`,
from any `seq` on (`after=`), and goes on with `follow=true`; see [api.md](api.md). This page is made of
the code that checks them.

Every Request ends in exactly one Fact, whose envelope has the Request's id in `ends`. A Request's
`request_id` makes sending it again harmless: the same id with the same body is answered from what is
known, with another body it is refused (409). An empty `request_id` is filled in. `reply_to` names a
webhook of the config, which is sent that Fact.

Fields are only ever added, with defaults. Times are seconds since 1970, UTC; money is millionths of a
dollar. `metric`, `log` and `console_output` are many: they have routes and cursors of their own, under
`/v1/telemetry`.

## Envelope

"""


def events_page() -> str:
    """deploy/docs/events.md."""
    parts = [EVENTS, *_fields(Envelope, skip="event"), "\n## Requests\n"]
    for model in get_args(Request):
        parts += _section(model)
    parts.append("\n## Facts\n")
    for model in get_args(Fact):
        parts += _section(model)
    parts.append("\n## Values within events\n")
    for model in _values():
        parts += _section(model)
    return "".join(parts)


def _section(model: type[BaseModel]) -> Iterator[str]:
    kind = model.model_fields.get("kind")
    title = f"`{kind.default}`" if kind is not None else model.__name__
    about = (model.__doc__ or "").partition("\n\n    Attributes:")[0]
    text = " ".join(about.replace("(ours) ", "").split())
    yield f"\n### {title}\n\n{text}\n\n"
    yield from _fields(model)


def _fields(model: type[BaseModel], skip: str = "kind") -> Iterator[str]:
    told = _attributes(model)
    shown = {name: field for name, field in model.model_fields.items() if name != skip}
    if not shown:
        yield "It has no fields.\n"
        return
    yield "| field | type | default | |\n| --- | --- | --- | --- |\n"
    for name, field in shown.items():
        default = "" if field.is_required() else f"`{_json(field.get_default(call_default_factory=True))}`"
        yield f"| `{name}` | {_type(field.annotation)} | {default} | {told.get(name, '')} |\n"


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """What a docstring tells of each attribute."""
    told: dict[str, str] = {}
    last = ""
    for line in (model.__doc__ or "").partition("Attributes:")[2].splitlines():
        name, colon, text = line.strip().partition(": ")
        if line.startswith("        ") and not line.startswith("         ") and colon:
            names = [one.strip() for one in name.split(",")]
            last = names[0]
            told |= dict.fromkeys(names, text)
        elif last and line.strip():
            told[last] += f" {line.strip()}"
    return {name: text.replace("|", "\\|") for name, text in told.items()}


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return " or ".join(_type(one) for one in get_args(annotation))
    if origin is Literal:
        return " or ".join(f"`{_json(one)}`" for one in get_args(annotation))
    if origin is tuple:
        return f"list of {_type(get_args(annotation)[0])}"
    if origin is dict:
        return f"object of {_type(get_args(annotation)[1])}"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, Value):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, str(getattr(annotation, "__name__", annotation)).lower())


def _json(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "{…}"
    if isinstance(value, tuple):
        return "[]" if not value else "[…]"
    if isinstance(value, str):
        return f'"{value}"'
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, dict)
        else "{}"
    )


def _values() -> list[type[BaseModel]]:
    """The models that events are made of, each once, in the order in which they turn up."""
    found: dict[type[BaseModel], None] = {}
    todo: list[Any] = []
    for model in (*get_args(Request), *get_args(Fact)):
        todo += [field.annotation for field in model.model_fields.values()]
    while todo:
        one = todo.pop(0)
        if isinstance(one, type) and issubclass(one, BaseModel):
            if one not in found:
                found[one] = None
                todo += [field.annotation for field in one.model_fields.values()]
        else:
            todo += get_args(one)
    return list(found)


PAGES = {DOCS / "events.md": events_page}

if __name__ == "__main__":
    for path, make in PAGES.items():
        path.write_text(make())
