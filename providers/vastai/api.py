"""The vendor's calls: paced, bounded, their refusals as faults, their secrets kept out of what is said."""

import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard

import anyio

from providers.errors import Fault, ProviderError
from providers.http import Answer, Http
from providers.pace import RateLimit
from providers.redaction import log_unknown_answer, redacted
from providers.vastai.config import VastaiConfig
from providers.vastai.faults import Refusal, parsed, refusal
from providers.vastai.turns import Turns

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


class Incomplete(ProviderError):
    """A listing that came to its end, with fewer contracts than the vendor says there are."""


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
        self._limits: dict[Kind, RateLimit] = {
            kind: RateLimit(1 / s, 1, time.monotonic)
            for kind, s in every.items()
            if s > 0 and kind != "destroy"
        }
        pace = config.destroy_every_s
        self._destroys = Turns("destroy", pace, time.monotonic) if pace > 0 else None

    async def search(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Asks that are to be had now. Not repeated: searches have a quota for the day."""
        said = await self._call("search", "POST", "/api/v0/bundles/", body=body)
        found = said.body.get("offers")
        if isinstance(
            found, dict
        ):  # the OpenAPI document's example has one object where the SDK reads a list
            found = [found]
        if not isinstance(found, list):
            raise self._odd("search", said, "a success that lists no offers")
        return [row for row in found if isinstance(row, dict)]

    async def create(self, ask: int, body: Mapping[str, Any], secrets: Iterable[str] = ()) -> int:
        """Rent an ask; returns the contract's id. Never repeated. Wait for `turn` first.

        Raises:
            Refused: see `Refusal.new_contract`: a refusal may have made a contract.
            ProviderError: unknown, not_sent.
        """
        what, path = f"create from ask {ask}", f"/api/v0/asks/{ask}/"
        said = await self._send("PUT", path, what, body=body, secrets=secrets, timeout_s=CREATE_TIMEOUT_S)
        made = said.body.get("new_contract")
        if not _is_id(made):
            raise self._odd(what, said, "a success that names no contract", secrets)
        return made

    async def destroy(self, ref: str, *, within_s: float | None = None) -> None:
        """End a contract for good. One that is gone is a success.

        Args:
            within_s: how long to wait for one's turn; None: as long as a caller may.

        Raises:
            ProviderError: throttled, by ourselves, when many are to be destroyed; see `Turns.take`.
        """
        path = f"/api/v0/instances/{ref}/"
        try:
            await self._call("destroy", "DELETE", path, body={}, tries=READ_TRIES, who=ref, within_s=within_s)
        except Refused as refused:
            if refused.fault is not Fault.GONE:
                raise

    async def contracts(self, labels: Iterable[str] | None = None) -> AsyncIterator[Page]:
        """The account's contracts page by page, by id; only those with one of `labels` when given.

        Raises:
            Incomplete: the vendor says that there are more; all pages were yielded.
            ProviderError: a page could not be read, or lists no contracts; those before it were yielded.
        """
        query: dict[str, Any] = {"limit": PAGE_MAX, "order_by": '[{"col":"id","dir":"asc"}]'}
        if labels is not None:
            query["select_filters"] = json.dumps({"label": {"in": sorted(set(labels))}})
        seen: set[int] = set()
        for _ in range(PAGES_MAX):
            said = await self._call("list", "GET", "/api/v1/instances/", query=query, tries=READ_TRIES)
            rows, token = said.body.get("instances"), said.body.get("next_token")
            if not isinstance(rows, list) or not all(
                isinstance(r, dict) and _is_id(r.get("id")) for r in rows
            ):
                raise self._odd("show instances", said, "a success that does not list contracts by their ids")
            if token and token == query.get("after_token"):
                raise self._odd("show instances", said, "the next page is this one again")
            seen |= {row["id"] for row in rows}
            yield Page(tuple(rows), said.date)
            if not token:
                _raise_if_fewer(len(seen), said.body.get("total_instances"))
                return
            query["after_token"] = token
        raise ProviderError(Fault.UNKNOWN, f"show instances: more than {PAGES_MAX} pages")

    async def user(self) -> Said:
        """Who we are, and our credit."""
        return await self._call("other", "GET", "/api/v0/users/current/", tries=READ_TRIES)

    async def turn(self, kind: Kind, *, who: str = "", within_s: float | None = None) -> None:
        """Wait until a call of this kind may be made.

        Args:
            who: whose destroy it is; the same when it comes again.
            within_s: how long to wait at most; None: as long as callers of this kind may.

        Raises:
            ProviderError: throttled, by ourselves; too many wait already.
        """
        within = PACE_WITHIN_S.get(kind, 30.0) if within_s is None else within_s
        if kind == "destroy" and self._destroys is not None:
            await self._destroys.take(who, within)
            return
        limit = self._limits.get(kind)
        if limit is None:
            return
        with anyio.move_on_after(within):
            await limit.take()
            return
        text = f"more calls ({kind}) wait than can be made in {within:g} s, one in {self._every_s[kind]:g} s"
        raise ProviderError(Fault.THROTTLED, text, retry_after_s=within, paced=True)

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
        who: str = "",
        within_s: float | None = None,
    ) -> Said:
        """One call that may be repeated, at its kind's pace."""
        what = f"{method} {path}"
        for left in reversed(range(tries)):
            await self.turn(kind, who=who, within_s=within_s)
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

    def _odd(self, what: str, said: Said, why: str, secrets: Iterable[str] = ()) -> ProviderError:
        """What a success is that does not say what it must: an outcome nobody knows."""
        self._log(what, 200, "", json.dumps(said.body), (self._config.api_key.read(), *secrets))
        return ProviderError(Fault.UNKNOWN, f"{what}: {why}")

    def _log(self, what: str, status: int | str, code: str, raw: str | bytes, secrets: Iterable[str]) -> None:
        log_unknown_answer(self._name, what, status=status, code=code, raw=raw, secrets=secrets)


def _without(refused: Refusal, secrets: Iterable[str]) -> Refusal:
    """The refusal, should it repeat what we sent, without our secrets."""
    return replace(refused, detail=redacted(refused.detail, secrets))


def _object(answer: Answer) -> dict[str, Any]:
    body = parsed(answer)
    return body if isinstance(body, dict) else {"list": body}


def _is_id(found: object) -> TypeGuard[int]:
    return isinstance(found, int) and not isinstance(found, bool)


def _raise_if_fewer(seen: int, told: object) -> None:
    """The vendor tells how many match, in all pages [OpenAPI, showInstances.total_instances]."""
    if isinstance(told, int) and seen < told:
        raise Incomplete(Fault.UNKNOWN, f"show instances: {seen} were listed, and there are {told}")
