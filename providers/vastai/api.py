"""The vendor's calls: paced, bounded, their refusals as faults, their secrets kept out of what is said."""

import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import anyio

from providers.errors import Fault, ProviderError
from providers.http import Answer, Http
from providers.pace import RateLimit
from providers.redaction import log_unknown_answer, redacted
from providers.vastai.config import VastaiConfig
from providers.vastai.faults import Refusal, parsed, refusal

Kind = Literal["search", "create", "list", "destroy", "other"]
PAGE_MAX = 25  # [OpenAPI, show instances]
PAGES_MAX = 1000
READ_TRIES = 3
READ_TIMEOUT_S, CREATE_TIMEOUT_S = 20.0, 45.0
# Less than what a caller waits for (60 s, a launch 120 s), so that it hears that nothing was sent.
PACE_WITHIN_S: dict[Kind, float] = {"create": 60.0, "destroy": 40.0, "list": 30.0}


class Refused(ProviderError):
    """The vendor answered, and not with a success. `refusal` is all it said."""

    def __init__(self, what: str, refusal: Refusal) -> None:
        super().__init__(refusal.fault, f"{what}: {refusal.detail}", refusal.retry_after_s)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Said:
    """A success: its JSON object, and when the vendor's clock says it was."""

    body: dict[str, Any]
    date: float | None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of contracts."""

    rows: tuple[dict[str, Any], ...]
    date: float | None


class Api:
    """Calls to one account."""

    def __init__(self, name: str, config: VastaiConfig) -> None:
        self._name, self._config = name, config
        self._http = Http(config.base_url.rstrip("/"))
        every: dict[Kind, float] = {
            "search": config.other_every_s,
            "create": config.create_every_s,
            "list": config.list_every_s,
            "destroy": config.destroy_every_s,
            "other": config.other_every_s,
        }
        self._every_s = every
        self._limits = {kind: RateLimit(1 / s, 1, time.monotonic) for kind, s in every.items() if s > 0}

    async def search(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Asks that are to be had now. Not repeated: searches have a quota for the day."""
        said = await self._call("search", "POST", "/api/v0/bundles/", body=body)
        return _rows(said.body.get("offers"))

    async def create(self, ask: int, body: Mapping[str, Any], secrets: Iterable[str] = ()) -> int:
        """Rent an ask; returns the contract's id. Never repeated. Wait for `turn` first.

        Raises:
            Refused: see `Refusal.new_contract`: a refusal may have made a contract.
            ProviderError: unknown, not_sent.
        """
        what, path = f"create from ask {ask}", f"/api/v0/asks/{ask}/"
        said = await self._send("PUT", path, what, body=body, secrets=secrets, timeout_s=CREATE_TIMEOUT_S)
        made = said.body.get("new_contract")
        if not isinstance(made, int) or isinstance(made, bool):
            self._log(what, 200, "", json.dumps(said.body), secrets)
            raise ProviderError(Fault.UNKNOWN, f"{what}: a success that names no contract")
        return made

    async def destroy(self, ref: str) -> None:
        """End a contract for good. One that is gone is a success."""
        path = f"/api/v0/instances/{ref}/"
        try:
            await self._call("destroy", "DELETE", path, body={}, tries=READ_TRIES, urgent=True)
        except Refused as refused:
            if refused.fault is not Fault.GONE:
                raise

    async def contracts(self, labels: Iterable[str] | None = None) -> AsyncIterator[Page]:
        """The account's contracts page by page, by id; only those with one of `labels` when given.

        Raises:
            ProviderError: a page could not be read; those before it were yielded.
        """
        query: dict[str, Any] = {"limit": PAGE_MAX, "order_by": '[{"col":"id","dir":"asc"}]'}
        if labels is not None:
            query["select_filters"] = json.dumps({"label": {"in": sorted(set(labels))}})
        for _ in range(PAGES_MAX):
            said = await self._call("list", "GET", "/api/v1/instances/", query=query, tries=READ_TRIES)
            rows = (row for row in _rows(said.body.get("instances")) if isinstance(row.get("id"), int))
            yield Page(tuple(rows), said.date)
            token = said.body.get("next_token")
            if not token or token == query.get("after_token"):
                return
            query["after_token"] = token
        raise ProviderError(Fault.UNKNOWN, f"show instances: more than {PAGES_MAX} pages")

    async def user(self) -> Said:
        """Who we are, and our credit."""
        return await self._call("other", "GET", "/api/v0/users/current/", tries=READ_TRIES)

    async def turn(self, kind: Kind, *, urgent: bool = False) -> None:
        """Wait until a call of this kind may be made.

        Raises:
            ProviderError: throttled, by ourselves; too many wait already.
        """
        limit = self._limits.get(kind)
        if limit is None:
            return
        within = PACE_WITHIN_S.get(kind, 30.0)
        with anyio.move_on_after(within):
            await limit.take(urgent=urgent)
            return
        text = f"more calls ({kind}) wait than can be made in {within:g} s, one in {self._every_s[kind]:g} s"
        raise ProviderError(Fault.THROTTLED, text, retry_after_s=within)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _call(
        self,
        kind: Kind,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        tries: int = 1,
        urgent: bool = False,
    ) -> Said:
        """One call that may be repeated, at its kind's pace."""
        what = f"{method} {path}"
        for left in reversed(range(tries)):
            await self.turn(kind, urgent=urgent)
            try:
                return await self._send(method, path, what, body=body, query=query)
            except ProviderError as error:
                again = error.fault in (Fault.THROTTLED, Fault.NOT_SENT, Fault.UNKNOWN)
                if not left or not again:
                    raise
                wait = error.retry_after_s if error.retry_after_s is not None else self._every_s[kind]
                if wait > READ_TIMEOUT_S:
                    raise
                await anyio.sleep(wait)
        raise AssertionError

    async def _send(
        self,
        method: str,
        path: str,
        what: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        secrets: Iterable[str] = (),
        timeout_s: float = READ_TIMEOUT_S,
    ) -> Said:
        key = self._config.api_key.read()  # each time, so that it can be changed
        answer = await self._http.call(
            method,
            path,
            query=query,
            headers={"Authorization": f"Bearer {key}"},
            json=body,
            timeout_s=timeout_s,
        )
        refused = refusal(answer)
        if refused is None:
            return Said(_object(answer), answer.date())
        if not refused.known:
            self._log(what, answer.status, refused.code, answer.body, (key, *secrets))
        raise Refused(what, _without(refused, (key, *secrets)))

    def _log(self, what: str, status: int | str, code: str, raw: str | bytes, secrets: Iterable[str]) -> None:
        log_unknown_answer(self._name, what, status=status, code=code, raw=raw, secrets=secrets)


def _without(refused: Refusal, secrets: Iterable[str]) -> Refusal:
    """The refusal, should it repeat what we sent, without our secrets."""
    return replace(refused, detail=redacted(refused.detail, secrets))


def _object(answer: Answer) -> dict[str, Any]:
    body = parsed(answer)
    return body if isinstance(body, dict) else {"list": body}


def _rows(found: object) -> list[dict[str, Any]]:
    if isinstance(found, dict):  # the OpenAPI document's example shows one object where the SDK reads a list
        return [found]
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
