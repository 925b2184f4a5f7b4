"""What a route of the daemon is for the clients: written once, a method of both.

    @asked
    def pool(self, name: str) -> Call[PoolView]:
        ...

says what is sent and what is made of the answer. `Client.pool("main")` is a PoolView, and
`await AsyncClient.pool("main")` as well: each client sends it in its own way.
"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, overload

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
NowT_co = TypeVar("NowT_co", covariant=True)
LaterT_co = TypeVar("LaterT_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and what is made of its answer.

    Attributes:
        wait_s: how long the daemon may take besides.
        named: it has an id by which the daemon knows it again.
        fine: statuses of errors whose body is an answer all the same.
    """

    method: str
    path: str
    decode: Callable[[bytes], T]
    params: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    body: bytes | None = None
    wait_s: float = 0
    named: bool = False
    fine: tuple[int, ...] = ()

    @property
    def repeatable(self) -> bool:
        """Whether to ask twice is as good as once: a token that is made twice is lost the first time."""
        return self.method == "GET" or self.named

    def behind(self, cursor: str) -> "Call[T]":
        """The same list from a cursor on."""
        return replace(self, params={**self.params, "after": cursor})


class Feed(Protocol[T_co]):
    """A stream that is read on from where it was, over all that breaks.

    Attributes:
        path: the route's.
        follow: whether to wait for what is to come; else all that is there is read.
        over: asks whether no more will come; None: there is no end.
    """

    path: str
    follow: bool
    over: Call[bool] | None

    def begin(self) -> dict[str, str]:
        """Parameters of the next connection."""

    def feed(self, chunk: bytes) -> Iterable[T_co]:
        """What a chunk completes."""


def fed(feed: Feed[T], chunk: bytes) -> list[T]:
    """What a chunk completes. Raises ValueError, TypeError or KeyError when it is not the daemon's."""
    return list(feed.feed(chunk))


class Synchronous:
    """A client whose methods answer."""


class Asynchronous:
    """A client whose methods are awaited."""


class Method(Protocol[P, NowT_co, LaterT_co]):
    """A method of both clients, as type checkers see it; it is a plain function."""

    @overload
    def __get__(self, client: Synchronous, owner: type | None = None) -> Callable[P, NowT_co]: ...
    @overload
    def __get__(self, client: Asynchronous, owner: type | None = None) -> Callable[P, LaterT_co]: ...


def asked(
    build: Callable[Concatenate[Any, P], Call[T]],
) -> Method[P, T, Coroutine[Any, Any, T]]:
    """A method that sends a call."""
    return _method("_do", build)


def listed(
    build: Callable[Concatenate[Any, P], Call[list[T]]],
) -> Method[P, list[T], Coroutine[Any, Any, list[T]]]:
    """A method that reads a whole list, page by page."""
    return _method("_whole", build)


def each(
    build: Callable[Concatenate[Any, P], Call[list[T]]],
) -> Method[P, Generator[T, None, None], AsyncGenerator[T, None]]:
    """A method that gives what is in a list, page by page."""
    return _method("_each", build)


def followed(
    build: Callable[Concatenate[Any, P], Feed[T]],
) -> Method[P, Generator[T, None, None], AsyncGenerator[T, None]]:
    """A method that gives what comes of a stream."""
    return _method("_follow", build)


def _method(way: str, build: Callable[Concatenate[Any, P], object]) -> Method[P, NowT_co, LaterT_co]:
    @wraps(build)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, way)(build(self, *args, **kwargs))

    return cast(Method[P, NowT_co, LaterT_co], method)
