"""Calls to Compute Engine and its neighbours: token, version, pace, paging, operations."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import anyio

from providers.errors import Fault, ProviderError
from providers.gcp.config import GcpConfig
from providers.gcp.faults import failure
from providers.gcp.tokens import Tokens
from providers.http import Answer, Http
from providers.pace import RateLimit

# Waiting has connections of its own, which it holds for minutes: nothing else must wait for them.
Service = Literal["compute", "waiting", "projects", "billing"]
READ_WITHIN_S = 20.0
WRITE_WITHIN_S = 30.0
READ_TRIES = 3
READ_AGAIN_S = 0.25  # doubled each time
PAGES_MAX = 1000
PAGE_SIZE = 500  # Compute Engine's most
WAIT_AGAIN_S = 0.5
WAITS_AT_ONCE = 256
BURST_S = 10.0  # this much of a minute's requests may come at once


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: its JSON, and when the vendor's clock says it was made (None: it does not say)."""

    json: dict[str, Any]
    at: float | None


class Api:
    """One project's API. Every failure is a `ProviderError`; only reads are repeated."""

    def __init__(self, name: str, config: GcpConfig, tokens: Tokens) -> None:
        self.project = f"/projects/{config.project}"
        self._name, self._tokens = name, tokens
        version = {"X-Goog-Api-Version": config.api_version}
        self._https: dict[Service, Http] = {
            "compute": Http(config.base_url, headers=version),
            "waiting": Http(config.base_url, headers=version, connections_max=WAITS_AT_ONCE),
            "projects": Http(config.resource_manager_url, connections_max=2),
            "billing": Http(config.billing_url, connections_max=2),
        }
        per_s = config.requests_per_minute / 60
        burst = max(1, round(per_s * BURST_S))
        self._reading = RateLimit(per_s, burst, time.monotonic)
        self._writing = RateLimit(per_s, burst, time.monotonic)

    async def read(
        self,
        call: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        service: Service = "compute",
        within_s: float = READ_WITHIN_S,
    ) -> Answer:
        """GET something; tried again a little when nobody answers. `path` follows the base URL."""
        wait = READ_AGAIN_S
        with anyio.move_on_after(within_s):
            for tries_left in range(READ_TRIES - 1, -1, -1):
                await self._reading.take()
                try:
                    return await self._call(service, call, "GET", path, query=query, timeout_s=within_s)
                except ProviderError as error:
                    if error.fault not in (Fault.UNKNOWN, Fault.NOT_SENT) or not tries_left:
                        raise
                await anyio.sleep(wait)
                wait *= 2
        raise ProviderError(Fault.UNKNOWN, f"{call}: no answer in {within_s:g} s")

    async def write(
        self,
        call: str,
        method: Literal["POST", "DELETE"],
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        json: object | None = None,
        service: Service = "compute",
        making: bool = False,
        urgent: bool = False,
    ) -> Answer:
        """Change something, once. `making`: what is not found is something that the body names."""
        await self._writing.take(urgent=urgent)
        return await self._call(
            service, call, method, path, query=query, json=json, timeout_s=WRITE_WITHIN_S, making=making
        )

    async def pages(self, call: str, path: str, query: Mapping[str, Any] | None = None) -> list[Page]:
        """Every page of a list of Compute Engine. Raises ProviderError when one can't be read."""
        pages, broken = await self.readable_pages(call, path, query)
        if broken is not None:
            raise broken
        return pages

    async def readable_pages(
        self, call: str, path: str, query: Mapping[str, Any] | None = None, *, pages_max: int = PAGES_MAX
    ) -> tuple[list[Page], ProviderError | None]:
        """The pages up to one that can't be read, and why it can't. Raises when that is the first."""
        pages, token = list[Page](), ""
        while len(pages) < pages_max:
            asked = {"maxResults": PAGE_SIZE, **(query or {}), **({"pageToken": token} if token else {})}
            try:
                answer = await self.read(call, path, query=asked)
                page = Page(_object(answer.json(), call), answer.date())
            except ProviderError as error:
                if not pages:
                    raise
                return pages, error
            pages.append(page)
            token = page.json.get("nextPageToken") or ""
            if not token:
                return pages, None
        return pages, ProviderError(Fault.UNKNOWN, f"{call}: more than {pages_max} pages")

    async def wait(self, operation: dict[str, Any], *, within_s: float) -> dict[str, Any]:
        """Wait until an operation is over, and return it as it is then, or as it was seen last.

        Raises nothing: what the operation is about was accepted, whatever becomes of our asking.
        """
        if operation.get("status") == "DONE":
            return operation
        scope = "global"
        if zone := operation.get("zone"):
            scope = f"zones/{last(zone)}"
        path = f"{self.project}/{scope}/operations/{operation['name']}/wait"
        with anyio.move_on_after(within_s):
            while operation.get("status") != "DONE":
                try:
                    await self._reading.take()
                    answer = await self._call("waiting", "operations.wait", "POST", path, timeout_s=within_s)
                    operation = _object(answer.json(), "operations.wait")
                except ProviderError as error:
                    if error.fault not in (Fault.UNKNOWN, Fault.NOT_SENT, Fault.THROTTLED):
                        break
                    await anyio.sleep(error.retry_after_s or WAIT_AGAIN_S)
                    continue
                if operation.get("status") != "DONE":  # it comes back after two minutes at the latest
                    await anyio.sleep(WAIT_AGAIN_S)
        return operation

    async def _call(
        self,
        service: Service,
        call: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        json: object | None = None,
        timeout_s: float,
        making: bool = False,
    ) -> Answer:
        http, token = self._https[service], ""
        for _ in range(2):
            token = await self._tokens.get(refused=token)
            answer = await http.call(
                method,
                path,
                query=query,
                json=json,
                headers={"Authorization": f"Bearer {token}"},
                timeout_s=timeout_s,
            )
            if answer.status != 401:  # then the token is not good any more, and nothing was done
                break
        if answer.ok:
            return answer
        raise failure(self._name, call, answer, making=making)

    async def aclose(self) -> None:
        """Close all connections."""
        for http in self._https.values():
            await http.aclose()


def last(url: object) -> str:
    """The last part of a resource's URL: its name."""
    return str(url).rstrip("/").rpartition("/")[2]


def _object(value: object, call: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise ProviderError(Fault.UNKNOWN, f"{call}: the answer is no object")
