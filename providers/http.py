"""HTTP to a vendor: bounded, cancellable, never retried, and every way to fail is a `ProviderError`.

What an answer means is the adapter's to say; this only tells "surely not sent" from "nobody knows".
"""

import math
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, Self

import anyio
import httpx2 as httpx
from pydantic_core import from_json

from providers.errors import Fault, ProviderError
from providers.redaction import redacted

ANSWER_BYTES_MAX = 64 * 2**20
CONNECT_WITHIN_S = 10.0
FREE_WITHIN_S = 30.0  # how long a call waits for one of our connections
HANG_UP_WITHIN_S = 2.0
USER_AGENT = "everpool"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        status: of HTTP.
        headers: names in lower case.
        body: as it came, decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The body as JSON. Raises ProviderError(unknown) when it is none."""
        try:
            return from_json(self.body)
        except ValueError as error:
            begins = redacted(self.body)[:80]
            text = f"an answer of status {self.status} is no JSON: {begins!r}"
            raise ProviderError(Fault.UNKNOWN, text) from error

    def date(self) -> float | None:
        """When the vendor's clock says it was made, seconds since the epoch."""
        try:
            told = parsedate_to_datetime(self.headers["date"])
            return (told if told.tzinfo is not None else told.replace(tzinfo=UTC)).timestamp()
        except (KeyError, ValueError, OverflowError):
            return None

    def retry_after_s(self) -> float | None:
        """How long the vendor asks us to wait, when it says so in seconds."""
        try:
            seconds = float(self.headers["retry-after"])
        except (KeyError, ValueError):
            return None
        return max(0.0, seconds) if math.isfinite(seconds) else None


@cache
def _trusted() -> ssl.SSLContext:
    """The usual certificate authorities; read once, as that takes a while."""
    return httpx.create_ssl_context()


class Http:
    """A client of one base URL. Use one per vendor endpoint and close it.

    Args:
        base_url: scheme, host and perhaps a path prefix; for a unix socket any host, such as http://engine.
        headers: sent with every request.
        uds: path of a unix socket to use instead of TCP.
        verify: a TLS context of one's own, or False for none (only for plain test servers).
        connections_max: at once; more wait for a free one.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        uds: str | None = None,
        verify: ssl.SSLContext | bool = True,
        connections_max: int = 32,
    ) -> None:
        limits = httpx.Limits(max_connections=connections_max, max_keepalive_connections=connections_max)
        # Neither the environment's proxies nor its netrc for a unix socket: nothing of it is meant for us.
        transport = httpx.AsyncHTTPTransport(uds=uds, limits=limits) if uds is not None else None
        self._client = httpx.AsyncClient(
            base_url=base_url,
            headers={"User-Agent": USER_AGENT, **(headers or {})},
            transport=transport,
            limits=limits,
            verify=_trusted() if verify is True else verify,
            trust_env=uds is None,
            follow_redirects=False,
            timeout=_timeout(60.0),
        )

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: object | None = None,
        body: bytes | None = None,
        timeout_s: float = 30.0,
    ) -> Answer:
        """Send one request and take its whole answer, whatever its status.

        Raises:
            ProviderError: not_sent (no connection), rejected (what was given makes no request), or unknown
                (sent, and no whole answer came in time).
        """
        what = f"{method} {path}"
        with _failing(what, timeout_s):
            response = await self._sent(method, path, query, headers, json, body, timeout_s)
            pieces = _Pieces(response, what)
            try:
                held, size = list[bytes](), 0
                async for part in pieces:
                    held.append(part)
                    size += len(part)
                    if size > ANSWER_BYTES_MAX:
                        text = f"{what}: an answer of more than {ANSWER_BYTES_MAX} bytes"
                        raise ProviderError(Fault.UNKNOWN, text)
            finally:
                await pieces.aclose()
            return Answer(response.status_code, _lower(response.headers), b"".join(held))
        raise AssertionError  # _failing raises when it ends a call

    async def _sent(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        json: object | None,
        body: bytes | None,
        timeout_s: float,
    ) -> httpx.Response:
        """The head of an answer; its body is still to be read."""
        request = self._client.build_request(
            method,
            path,
            params=query,
            headers=headers,
            json=json,
            content=body,
            timeout=_timeout(timeout_s),
        )
        return await self._client.send(request, stream=True)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: object | None = None,
        body: bytes | None = None,
        timeout_s: float = 30.0,
    ) -> AsyncGenerator[tuple[Answer, AsyncIterator[bytes]]]:
        """Send one request and read its answer piece by piece, for as long as it comes.

        Gives the answer's head, its body empty, and the pieces; reading them raises ProviderError(unknown)
        when the connection breaks. `timeout_s` is for the head only.
        """
        what = f"{method} {path}"
        with _failing(what, timeout_s):
            response = await self._sent(method, path, query, headers, json, body, timeout_s)
        pieces = _Pieces(response, what)
        try:
            yield Answer(response.status_code, _lower(response.headers), b""), pieces
        finally:
            await pieces.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def _lower(headers: httpx.Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _timeout(within_s: float) -> httpx.Timeout:
    """Shorter for what comes before the request: then it is known that it was not sent. The rest is bounded
    as a whole, by whoever calls."""
    before_s = within_s * 0.8
    return httpx.Timeout(None, connect=min(CONNECT_WITHIN_S, before_s), pool=min(FREE_WITHIN_S, before_s))


class _Pieces:
    """An answer's body as it comes. Not a generator: one would hold its cancel scope between two pieces."""

    def __init__(self, response: httpx.Response, what: str) -> None:
        self._response = response
        self._parts = response.aiter_bytes()
        self._what = what
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            with _failing(self._what, None):
                return await anext(self._parts)
        except BaseException:  # its generators have come to their end with it
            self._is_over = True
            raise
        raise AssertionError

    async def aclose(self) -> None:
        """Hang up, unless the answer is over."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(HANG_UP_WITHIN_S):
            await self._response.aclose()
            while not self._is_over:  # what was read ahead; then the generators below fail, which ends them
                with suppress(ProviderError, StopAsyncIteration):
                    await anext(self)


@contextmanager
def _failing(what: str, timeout_s: float | None) -> Iterator[None]:
    """Bound what is done inside, and say its failures in our words."""
    try:
        with anyio.fail_after(timeout_s):
            yield
    except TimeoutError as error:
        late = "the system gave up" if timeout_s is None else f"no answer in {timeout_s:g} s"
        raise ProviderError(Fault.UNKNOWN, f"{what}: {late}") from error
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
        raise ProviderError(Fault.NOT_SENT, f"{what}: {_said(error)}") from error
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise ProviderError(Fault.REJECTED, f"{what}: {_said(error)}") from error
    except (httpx.LocalProtocolError, UnicodeEncodeError):
        # Neither its text nor itself: both hold the header, which may be a secret.
        raise ProviderError(Fault.REJECTED, f"{what}: a header that HTTP does not allow") from None
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise ProviderError(Fault.UNKNOWN, f"{what}: {_said(error)}") from error


def _said(error: Exception) -> str:
    return " ".join(redacted(str(error) or type(error).__name__).split())[:300]
