"""Valid values of any of the product's models, made from a number."""

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from actors.spec import Nodes, PoolSpec, TaskSpec

_FIXED: dict[type, Any] = {
    PoolSpec: lambda n: PoolSpec(provider="local", nodes=Nodes(desired=n % 5)),
    TaskSpec: lambda n: TaskSpec(argv=("echo", str(n)), name=f"t{n}"),
}


def sample(kind: Any, n: int) -> Any:
    """One value of `kind`; other numbers give other values."""
    if kind in _FIXED:
        return _FIXED[kind](n)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind(
            **{
                name: _field(name, field.annotation, n + i)
                for i, (name, field) in enumerate(kind.model_fields.items())
                if field.is_required() or n % 2
            }
        )
    return _plain(kind, n)


def _field(name: str, kind: Any, n: int) -> Any:
    if name in ("pool", "provider") and kind is str:
        return f"p{n}"
    if name == "ready_within_s" or name == "within_s":
        return 1.0 + n
    return sample(kind, n)


def _plain(kind: Any, n: int) -> Any:
    origin = get_origin(kind)
    if origin is Annotated:
        return sample(get_args(kind)[0], n)
    if origin is Literal:
        return get_args(kind)[n % len(get_args(kind))]
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(kind) if member is not type(None)]
        return sample(members[n % len(members)], n) if n % 3 or len(members) > 1 else None
    if origin is tuple:
        return (sample(get_args(kind)[0], n),)
    if origin is dict:
        return {f"k{n}": sample(get_args(kind)[1], n)} if get_args(kind)[1] is not Any else {}
    values: dict[Any, Any] = {
        str: f"s{n}",
        int: n,
        float: n / 4,
        bool: bool(n % 2),
        type(None): None,
        Any: None,
    }
    return values[kind]
