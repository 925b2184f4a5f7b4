"""One signed POST to a webhook: bounded, no redirects followed, its answer hardly read."""

import ssl
from dataclasses import dataclass
from functools import cache

import anyio
import httpx2 as httpx

from controller.config_sections import WebhookConfig
from controller.version import own_version
from controller.webhook_signature import NAME, SECRET_CHARS_MIN, SEQ, SIGNATURE, signature
from providers.errors import ProviderError
from providers.redaction import redacted

ANSWER_BYTES_MAX = 1024
ERROR_CHARS_MAX = 200
RETRY_AFTER_MOST_S = 3600.0
HANG_UP_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of one try.

    Attributes:
        status: HTTP status; None: there was no answer.
        error: why it was not taken; empty: it was.
        retry_after_s: how long the receiver asks us to wait.
        answer: the beginning of the answer's body.
    """

    status: int | None = None
    error: str = ""
    retry_after_s: float | None = None
    answer: str = ""

    @property
    def taken(self) -> bool:
        """Whether the receiver has the event."""
        return not self.error

    @property
    def unwanted(self) -> bool:
        """Whether the receiver will never take this event."""
        return self.status == 410


class Sender:
    """Sends to one webhook, one event at a time. Close it."""

    def __init__(self) -> None:
        # A try has one time limit as a whole, see `post`.
        self._client = httpx.AsyncClient(
            headers={"User-Agent": f"everpool/{own_version()}"},
            limits=httpx.Limits(max_connections=2, max_keepalive_connections=1),
            follow_redirects=False,
            verify=_trusted(),
            timeout=None,
        )

    async def post(self, name: str, config: WebhookConfig, seq: int, body: bytes, at: float) -> Tried:
        """Try once. `at`: now, UTC seconds. Every way to fail is an answer."""
        try:
            secret = config.secret.read()  # each time, so that it can be changed
        except ProviderError as error:
            return Tried(error=f"its secret: {error.detail}"[:ERROR_CHARS_MAX])
        if len(secret) < SECRET_CHARS_MIN:
            return Tried(error=f"its secret has fewer than {SECRET_CHARS_MIN} characters")
        headers = {
            "Content-Type": "application/json",
            SIGNATURE: signature(secret, int(at), body),
            NAME: name,
            SEQ: str(seq),
        }
        try:
            with anyio.fail_after(config.timeout_s):
                return await self._answered(str(config.url), headers, body)
        except TimeoutError:
            return Tried(error=f"no answer in {config.timeout_s:g} s")
        except (httpx.ConnectError, httpx.ProxyError) as error:
            return Tried(error=f"no connection: {_said(error)}")
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            return Tried(error=f"no answer: {_said(error)}")

    async def _answered(self, url: str, headers: dict[str, str], body: bytes) -> Tried:
        request = self._client.build_request("POST", url, headers=headers, content=body)
        response = await self._client.send(request, stream=True)
        try:
            told = bytearray()
            async for part in response.aiter_raw():
                told += part[: ANSWER_BYTES_MAX - len(told)]
                if len(told) >= ANSWER_BYTES_MAX:
                    break
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(HANG_UP_WITHIN_S):
                await response.aclose()
        status, error = response.status_code, ""
        if 300 <= status < 400:
            error = f"answered {status}: redirects are not followed, write the new URL into the config"
        elif not 200 <= status < 300:
            error = f"answered {status}"
        text = redacted(bytes(told).decode(errors="replace"))[:ANSWER_BYTES_MAX]
        return Tried(status, error, _retry_after_s(response.headers.get("retry-after")), text)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


@cache
def _trusted() -> ssl.SSLContext:
    """The usual certificate authorities; read once, as that takes a while."""
    return httpx.create_ssl_context()


def _retry_after_s(value: str | None) -> float | None:
    """Seconds, when the header says so in seconds."""
    if value is None or not (value.isascii() and value.isdigit()):
        return None
    return min(float(value[:9]), RETRY_AFTER_MOST_S)


def _said(error: Exception) -> str:
    """In the library's words, which name no URL."""
    return " ".join(redacted(str(error) or type(error).__name__).split())[:ERROR_CHARS_MAX]
