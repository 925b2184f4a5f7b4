"""All webhooks: each a task of its own, added, changed and taken away as the config says."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import anyio
import structlog
from anyio.abc import TaskGroup

from actors.events import Envelope, WebhookRemoved, WebhookTested
from actors.ports import Commit
from controller.config_sections import WebhookConfig
from controller.webhooks.hook import KIND, Hook, Source, Tools
from controller.webhooks.sending import Tried

WAITING_MAX = 10_000  # events that wait are counted up to this before somebody takes a webhook away

log = structlog.get_logger()


class Journal(Source, Protocol):
    """Where events and who waits for their end are read."""

    async def replies(self, after: int) -> list[bytes]:
        """Envelopes, as JSON, of requests with a reply_to that are open or ended behind `after`."""
        ...


class Webhooks:
    """Implements `actors.ports.Observer`. All methods belong to the event loop's thread.

    While the config names none, nothing here costs anything.

    Args:
        journal: what is followed.
        tools: what all of them use.
        keep: runs what should never end: supervised, under a name.
    """

    def __init__(
        self,
        journal: Journal,
        tools: Tools,
        keep: Callable[[str, Callable[[], Awaitable[None]]], Awaitable[None]],
    ) -> None:
        self._journal = journal
        self._tools = tools
        self._supervise = keep
        self._wanted: Mapping[str, WebhookConfig] = {}
        self._hooks: dict[str, Hook] = {}
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._going: dict[str, Hook] = {}  # taken away, and not forgotten yet
        self._early: list[tuple[str, str]] = []  # (webhook, request) heard before a hook was there
        self._tasks: TaskGroup | None = None

    # --- what they are told -----------------------------------------------------------------------

    def accepted(self, envelope: Envelope) -> None:
        """A Request is durable, and is handed to its pool after this."""
        name = getattr(envelope.event, "reply_to", None)
        if name is not None and envelope.request_id is not None:
            hook = self._hooks.get(name)
            if hook is None and name not in self._wanted:
                return  # taken away since it was asked for: nobody would ever hear of it
            if hook is None:
                self._early.append((name, envelope.request_id))
            else:
                hook.replies.add(envelope.request_id)
                hook.wake()

    def wake(self) -> None:
        """Something may have become durable."""
        for hook in self._hooks.values():
            hook.wake()

    def committed(self, commit: Commit) -> None:
        """Wake those that wait for events."""
        if commit.envelopes and self._hooks:
            self.wake()

    def turn_ended(self, pool: str, *, messages: int, seconds: float, waiting: int) -> None:
        """Nothing here is about turns."""

    def bug(self, address: str, message: str, error: BaseException) -> None:
        """Bugs are journaled as events of their own."""

    async def before_pruning(self, upto: int, before: float) -> None:
        """Events up to seq `upto`, and those before a time, are about to be forgotten."""
        for hook in list(self._hooks.values()):
            await hook.let_go(upto, before)

    # --- life -------------------------------------------------------------------------------------

    def apply(self, wanted: Mapping[str, WebhookConfig]) -> None:
        """Have these webhooks from now on. A new one begins at the newest event.

        What waits for one that is taken away is dropped, and told as `webhook_removed`.
        """
        self._wanted = dict(wanted)
        self._early = [one for one in self._early if one[0] in wanted]
        if self._tasks is None:
            self._hooks = {name: hook for name, hook in self._hooks.items() if name in wanted}
            return
        for name in [name for name in self._hooks if name not in wanted]:
            self._going[name] = self._hooks.pop(name)
            self._scopes.pop(name).cancel()
        for name, config in wanted.items():
            if name in self._hooks:
                self._hooks[name].configure(config)
            else:
                self._start(self._tasks, name, config, ())

    async def run(self) -> None:
        """Live until cancelled."""
        records = self._tools.records()
        for name, config in self._wanted.items():  # at once: whoever asks for one at the start finds it
            self._hooks.setdefault(name, Hook(name, config, self._tools))
        replies: dict[str, list[str]] = {}
        cursors = [one.cursor for one in records.of(KIND).values()]
        if self._wanted or cursors:
            for body in await self._journal.replies(min(cursors, default=self._journal.last_seq)):
                envelope = Envelope.model_validate_json(body)
                reply_to = getattr(envelope.event, "reply_to", None)
                if reply_to is not None and envelope.request_id is not None:
                    replies.setdefault(reply_to, []).append(envelope.request_id)
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for name in [name for name in records.of(KIND) if name not in self._wanted]:
                    tasks.start_soon(self._forget, name, replies.get(name, ()), None)
                for name, config in self._wanted.items():
                    self._start(tasks, name, config, replies.get(name, ()))
                await anyio.sleep_forever()
        finally:
            self._tasks = None
            self._scopes.clear()
            self._going.clear()

    def _start(self, tasks: TaskGroup, name: str, config: WebhookConfig, replies: Iterable[str]) -> None:
        hook = self._hooks.setdefault(name, Hook(name, config, self._tools))
        hook.configure(config)
        hook.replies.update(replies)
        if name in self._going:  # it is back before it was forgotten
            hook.replies.update(self._going.pop(name).replies)
        hook.replies.update(request for to, request in self._early if to == name)
        self._early = [one for one in self._early if one[0] != name]
        scope = self._scopes[name] = anyio.CancelScope()
        tasks.start_soon(self._live, hook, scope)

    async def _live(self, hook: Hook, scope: anyio.CancelScope) -> None:
        with scope:
            await self._supervise(f"webhook {hook.name}", hook.run)
        if self._tasks is not None and self._going.get(hook.name) is hook:
            await self._forget(hook.name, hook.replies, await hook.unsent())

    async def _forget(self, name: str, replies: Collection[str], dropped: int | None) -> None:
        """One that the config names no more; named again, it is a new one. What waited for it is told.

        Args:
            dropped: events that it was not sent; None: not known, as it was taken out while nobody looked.
        """
        if name in self._hooks:
            return
        self._going.pop(name, None)
        fact = WebhookRemoved(webhook=name, dropped=dropped, replies=len(replies))
        if dropped or replies:
            log.warning("a webhook is taken away", webhook=name, dropped=dropped, replies=fact.replies)
        await self._tools.records().keep(KIND, name, None, [fact], wait=True)

    async def waiting(self, wanted: Collection[str]) -> dict[str, tuple[int, int]]:
        """What waits for each webhook that is not `wanted`: events (WAITING_MAX at most) and replies."""
        gone = [hook for name, hook in self._hooks.items() if name not in wanted]
        return {hook.name: (await hook.unsent(WAITING_MAX), len(hook.replies)) for hook in gone}

    # --- what is shown and asked ------------------------------------------------------------------

    def names(self) -> Sequence[str]:
        """All of them, sorted."""
        return sorted(self._hooks)

    def hook(self, name: str) -> Hook:
        """One of them. Raises KeyError."""
        return self._hooks[name]

    def failing(self, name: str) -> bool:
        """Whether its last try failed. Raises KeyError."""
        return self._hooks[name].record.failing_since is not None

    def delivered(self, name: str) -> int:
        """Events that it took since it was first named. Raises KeyError."""
        return self._hooks[name].record.delivered

    def dropped(self, name: str) -> int:
        """Events that were given up since it was first named. Raises KeyError."""
        return self._hooks[name].record.dropped

    def behind(self, name: str) -> int:
        """How many of the journal's seqs it has not come past. Raises KeyError."""
        return self._hooks[name].behind

    def views(self) -> list[dict[str, Any]]:
        """All of them, as the API shows them."""
        return [_view(self._hooks[name]) for name in self.names()]

    def view(self, name: str) -> dict[str, Any]:
        """One of them. Raises KeyError."""
        return _view(self._hooks[name])

    def retry(self, name: str) -> dict[str, Any]:
        """Try now what waits after a failure. Raises KeyError."""
        self._hooks[name].retry()
        return _view(self._hooks[name])

    async def test(self, name: str, principal: str) -> Tried:
        """Send a test now, whatever waits; tell of it when it is over. Raises KeyError, JournalClosed."""
        tried = await self._hooks[name].test(principal)
        fact = WebhookTested(webhook=name, status=tried.status, error=tried.error)
        await self._tools.records().note(fact, principal)
        return tried


def _view(hook: Hook) -> dict[str, Any]:
    record, url = hook.record, hook.config.url
    port = f":{url.port}" if url.port else ""
    return {
        "name": hook.name,
        "url": f"{url.scheme}://{url.host}{port}",  # its path or its query may be a secret
        "events": list(hook.config.events),
        "pools": list(hook.config.pools),
        "cursor": record.cursor,
        "behind": hook.behind,
        "replies": len(hook.replies),
        "delivered": record.delivered,
        "delivered_at": record.delivered_at,
        "dropped": record.dropped,
        "failing_since": record.failing_since,
        "tries": record.tries,
        "last_error": record.last_error,
        "last_status": record.last_status,
        "next_try_at": hook.next_try_at,
    }
