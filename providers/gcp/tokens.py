"""Access tokens: minted by google-auth in a thread, kept until shortly before they expire."""

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import google.auth
import google.auth.credentials
import google.auth.exceptions
import google.auth.transport
import httpx2 as httpx
from google.oauth2 import service_account

from providers.errors import Fault, ProviderError
from providers.gcp.config import SCOPE, GcpConfig
from providers.http import USER_AGENT
from providers.redaction import redacted

EARLY_S = 300.0  # so long before its end a token is changed for the next
MINT_WITHIN_S = 12.0
CALL_TIMEOUT_S = 10.0


class Tokens:
    """The token of one account. Safe to be asked by many tasks."""

    def __init__(self, config: GcpConfig, now: Callable[[], float]) -> None:
        self._config, self._now = config, now
        self._lock = anyio.Lock()
        self._credentials: Any = None
        self._token, self._until = "", -math.inf

    async def get(self, *, refused: str = "") -> str:
        """A token that is good for a while. `refused`: one that the vendor does not take any more.

        Raises:
            ProviderError: credentials (there are none, or they are refused), not_sent (no answer about them).
        """
        if self._is_fresh(refused):
            return self._token
        async with self._lock:
            if self._is_fresh(refused):  # while we waited
                return self._token
            try:
                with anyio.fail_after(MINT_WITHIN_S):
                    mint = partial(self._mint, again=bool(refused))
                    await anyio.to_thread.run_sync(mint, abandon_on_cancel=True)
            except TimeoutError as error:
                if not self._is_usable(refused):
                    raise ProviderError(Fault.NOT_SENT, "no access token in time") from error
            except ProviderError:
                if not self._is_usable(refused):
                    raise
            return self._token

    def _is_fresh(self, refused: str) -> bool:
        return self._token not in ("", refused) and self._now() < self._until - EARLY_S

    def _is_usable(self, refused: str) -> bool:
        return self._token not in ("", refused) and self._now() < self._until

    def _mint(self, *, again: bool) -> None:
        if again or self._credentials is None:  # the key may have been changed
            self._credentials = self._found()
        try:
            with _Transport() as transport:
                self._credentials.refresh(transport)
        except google.auth.exceptions.RefreshError as error:
            text = f"no access token: {_said(error)}"
            raise ProviderError(Fault.NOT_SENT if error.retryable else Fault.CREDENTIALS, text) from error
        except google.auth.exceptions.TransportError as error:
            raise ProviderError(Fault.NOT_SENT, f"no access token: {_said(error)}") from error
        except google.auth.exceptions.GoogleAuthError as error:
            raise ProviderError(Fault.CREDENTIALS, f"no access token: {_said(error)}") from error
        expiry = self._credentials.expiry
        until = math.inf if expiry is None else expiry.replace(tzinfo=UTC).timestamp()
        self._token, self._until = str(self._credentials.token), until

    def _found(self) -> Any:
        if self._config.key is None:
            try:
                with _Transport() as transport:
                    return google.auth.default(scopes=[SCOPE], request=transport)[0]
            except google.auth.exceptions.GoogleAuthError as error:
                text = f"no application default credentials: {_said(error)}"
                raise ProviderError(Fault.CREDENTIALS, text) from error
        where = self._config.key.path() or "the key"
        text = self._config.key.read()
        try:  # what is wrong with it is said without what is in it
            info = json.loads(text)
            if not isinstance(info, dict) or info.get("type") != "service_account":
                raise ProviderError(Fault.CREDENTIALS, f"{where} is no key of a service account")
            read: Any = service_account.Credentials.from_service_account_info  # without types
            made = read(info, scopes=[SCOPE])
        except (ValueError, google.auth.exceptions.GoogleAuthError) as error:
            raise ProviderError(Fault.CREDENTIALS, f"{where} is no key of a service account") from error
        return made if self._config.token_url is None else made.with_token_uri(self._config.token_url)


class _Answer(google.auth.transport.Response):
    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def data(self) -> bytes:
        return self._response.content


class _Transport(google.auth.transport.Request):
    """google-auth's way out: the http client that we have anyway."""

    def __enter__(self) -> "_Transport":
        self._client = httpx.Client(timeout=CALL_TIMEOUT_S, headers={"User-Agent": USER_AGENT})
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: object,
    ) -> _Answer:
        limit = CALL_TIMEOUT_S if timeout is None else min(timeout, CALL_TIMEOUT_S)
        try:
            return _Answer(self._client.request(method, url, content=body, headers=headers, timeout=limit))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            failure: Any = google.auth.exceptions.TransportError  # without types
            raise failure(f"{type(error).__name__} at {url}") from error


def _said(error: Exception) -> str:
    """The error's own text, not the answer that hangs on it."""
    return " ".join(redacted(str(error.args[0] if error.args else type(error).__name__)).split())[:200]
