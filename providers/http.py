"""HTTP to a vendor: bounded, cancellable, never retried, and every way to fail is a `ProviderError`.

What an answer means is the adapter's to say; this only tells "surely not sent" from "nobody knows".
"""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import anyio
import httpx2 as httpx
from pydantic_core import from_json

from providers.errors import Fault, ProviderError

ANSWER_BYTES_MAX = 64 * 2**20
CONNECT_WITHIN_S = 10.0
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
            text = f"an answer of status {self.status} is no JSON: {self.body[:80]!r}"
            raise ProviderError(Fault.UNKNOWN, text) from error

    def date(self) -> float | None:
        """When the vendor's clock says it was made, seconds since the epoch."""
        try:
            return parsedate_to_datetime(self.headers["date"]).timestamp()
        except (KeyError, ValueError):
            return None

    def retry_after_s(self) -> float | None:
        """How long the vendor asks us to wait, when it says so in seconds."""
        try:
            return max(0.0, float(self.headers["retry-after"]))
        except (KeyError, ValueError):
            return None


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
            verify=verify,
            trust_env=uds is None,
            follow_redirects=False,
            timeout=httpx.Timeout(60.0, connect=CONNECT_WITHIN_S, pool=30.0),
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
            ProviderError: not_sent (no connection), or unknown (sent, and no whole answer came in time).
        """
        with _failing(f"{method} {path}", timeout_s):
            async with self._client.stream(
                method, path, params=query, headers=headers, json=json, content=body
            ) as response:
                held, size = list[bytes](), 0
                async for part in response.aiter_bytes():
                    held.append(part)
                    size += len(part)
                    if size > ANSWER_BYTES_MAX:
                        text = f"{method} {path}: an answer of more than {ANSWER_BYTES_MAX} bytes"
                        raise ProviderError(Fault.UNKNOWN, text)
                return Answer(response.status_code, _lower(response.headers), b"".join(held))
        raise AssertionError

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
        request = self._client.build_request(
            method,
            path,
            params=query,
            headers=headers,
            json=json,
            content=body,
            timeout=httpx.Timeout(None, connect=CONNECT_WITHIN_S, pool=30.0),
        )
        what = f"{method} {path}"
        with _failing(what, timeout_s):
            response = await self._client.send(request, stream=True)
        try:
            yield Answer(response.status_code, _lower(response.headers), b""), _pieces(response, what)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(2.0):
                await response.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def _lower(headers: httpx.Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


async def _pieces(response: httpx.Response, what: str) -> AsyncIterator[bytes]:
    with _failing(what, None):
        async for part in response.aiter_bytes():
            yield part


@contextmanager
def _failing(what: str, timeout_s: float | None) -> Any:
    """Bound what is done inside, and say its failures in our words."""
    try:
        with anyio.fail_after(timeout_s):
            yield
    except TimeoutError as error:
        raise ProviderError(Fault.UNKNOWN, f"{what}: no answer in {timeout_s:g} s") from error
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
        raise ProviderError(Fault.NOT_SENT, f"{what}: {_said(error)}") from error
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise ProviderError(Fault.REJECTED, f"{what}: {_said(error)}") from error
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise ProviderError(Fault.UNKNOWN, f"{what}: {_said(error)}") from error


def _said(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]
