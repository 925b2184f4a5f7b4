"""Notices as aws pushes them: events of EventBridge that a rule puts into an SQS queue of each region.

The queue may be shared by several daemons. A message about a machine that is not ours is left to the others:
it is seen again by all after `SEEN_AGAIN_S`, and deleted by anybody once it is `OLD_S` old, when no notice is
worth anything any more. Ours are deleted after they were handed over, so that a notice may come twice and
is never lost; twice is noticed by the event's id.
"""

import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio
import structlog

from providers.aws.clients import Clients
from providers.aws.config import AwsConfig
from providers.aws.machines import Machines
from providers.aws.wire import OWNER, Happened, happened, tags_of
from providers.errors import Fault, ProviderError
from providers.model import Notice

POLL_S = 20  # the longest that SQS waits
SEEN_AGAIN_S = 20
OLD_S = 600.0
IDS_MAX, NOTICES_MAX = 10_000, 10_000
AFTER_FAILURE_S = 5.0
SKEW_S = 1.5  # a clock that is off by less may be right: the vendor tells whole seconds
_log = structlog.get_logger("providers.aws")


class Notices:
    """Which machines have been noticed, for listings, and whose machines are ours."""

    def __init__(self) -> None:
        self.owners: set[str] = set()
        self.ending: OrderedDict[str, None] = OrderedDict()  # refs that we end ourselves
        self._by_ref: OrderedDict[str, Notice] = OrderedDict()

    def of(self, ref: str) -> Notice | None:
        """The notice of a machine, when it was given one."""
        return self._by_ref.get(ref)

    def put(self, ref: str, notice: Notice) -> Notice:
        """Keep a notice; one that says less does not replace one that says more. Returns what is kept.

        Any word that a machine is taken says more than an early one, and a deadline more than none.
        """
        there = self._by_ref.get(ref)
        if there is not None and _vagueness(there) < _vagueness(notice):
            return there
        self._by_ref[ref] = notice
        while len(self._by_ref) > NOTICES_MAX:
            self._by_ref.popitem(last=False)
        return notice

    def we_end(self, ref: str) -> None:
        """Remember that a machine's end is our own doing."""
        self.ending[ref] = None
        while len(self.ending) > NOTICES_MAX:
            self.ending.popitem(last=False)


def _vagueness(notice: Notice) -> tuple[bool, bool]:
    return notice.early, notice.deadline_at is None


class Queue(AsyncIterator[tuple[str, Notice | None]]):
    """What `Provider.notices` gives: it polls the queues of all regions when it is asked for the next.

    Args:
        now: wall time of the daemon, seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        clients: Clients,
        config: AwsConfig,
        machines: Machines,
        notices: Notices,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._name, self._clients, self._config = name, clients, config
        self._machines, self._notices, self._now = machines, notices, now
        self._ready: deque[tuple[str, Notice, str, str]] = deque()  # key, notice, region, receipt
        self._handed: tuple[str, str] | None = None  # region and receipt of what was given last
        self._ids: OrderedDict[str, None] = OrderedDict()

    async def __anext__(self) -> tuple[str, Notice | None]:
        """The next notice. Raises ProviderError when no queue can be read."""
        if self._handed is not None:  # who asks for the next has taken the last
            await self._delete(self._handed[0], [self._handed[1]])
            self._handed = None
        while not self._ready:
            await self._poll_all()
        key, notice, region, receipt = self._ready.popleft()
        self._handed = (region, receipt)
        return key, notice

    async def _poll_all(self) -> None:
        """Wait until some queue has something for us, or its poll is over."""
        failures: list[ProviderError] = []

        async def one(region: str) -> None:
            try:
                await self._poll(region)
            except ProviderError as error:
                failures.append(error)
                _log.warning(
                    "a queue of notices can't be read", provider=self._name, region=region, why=str(error)
                )
                await anyio.sleep(AFTER_FAILURE_S)
            if self._ready:
                polling.cancel_scope.cancel()

        if not self._config.queues:
            await anyio.sleep_forever()
        async with anyio.create_task_group() as polling:
            for region in self._config.queues:
                polling.start_soon(one, region)
        if len(failures) == len(self._config.queues) and not self._ready:
            raise failures[0]

    async def _poll(self, region: str) -> None:
        reply = await self._clients.call(
            "sqs",
            region,
            "receive_message",
            timeout_s=POLL_S + 15,
            QueueUrl=self._config.queues[region],
            MaxNumberOfMessages=10,
            WaitTimeSeconds=POLL_S,
            VisibilityTimeout=SEEN_AGAIN_S,
            MessageSystemAttributeNames=["SentTimestamp"],
        )
        messages = reply.data.get("Messages") or ()
        if not messages:
            return
        told = [(message, happened(str(message.get("Body", "")))) for message in messages]
        refs = sorted({event.ref for _, event in told if event is not None})
        whose = await self._whose(region, refs) if refs else {}
        skew_s = self._skew_s(reply.at)
        done: list[str] = []
        for message, event in told:
            receipt = str(message["ReceiptHandle"])
            if event is None or event.ref not in whose:
                if self._is_old(message, reply.at):
                    done.append(receipt)
                continue
            notice = self._notice(event, skew_s)
            if notice is None:
                done.append(receipt)
            else:
                self._ready.append((whose[event.ref], notice, region, receipt))
        if done:
            await self._delete(region, done)

    async def _whose(self, region: str, refs: list[str]) -> dict[str, str]:
        """The launch keys of those machines that are ours."""
        return {
            str(instance["InstanceId"]): key
            for key, instance in await self._machines.by_ref(region, refs)
            if tags_of(instance).get(OWNER) in self._notices.owners
        }

    def _notice(self, event: Happened, skew_s: float) -> Notice | None:
        """What is new for us in an event; None when there is nothing."""
        if event.id in self._ids:
            return None
        self._ids[event.id] = None
        while len(self._ids) > IDS_MAX:
            self._ids.popitem(last=False)
        if event.rebalance and self._config.rebalance == "ignore":
            return None
        known = self._notices.of(event.ref)
        if event.over and (event.ref in self._notices.ending or (known is not None and not known.early)):
            return None
        deadline_at = None if event.deadline_at is None else event.deadline_at + skew_s
        notice = Notice(reason=event.reason, deadline_at=deadline_at, early=event.rebalance)
        return notice if self._notices.put(event.ref, notice) is notice else None

    def _skew_s(self, vendor_at: float | None) -> float:
        """How much later it is here than the vendor says."""
        if vendor_at is None:
            return 0.0
        skew_s = self._now() - (vendor_at + 0.5)
        return skew_s if abs(skew_s) > SKEW_S else 0.0

    def _is_old(self, message: Mapping[str, Any], vendor_at: float | None) -> bool:
        sent = (message.get("Attributes") or {}).get("SentTimestamp")
        at = self._now() if vendor_at is None else vendor_at
        return sent is not None and at - float(sent) / 1000 > OLD_S

    async def _delete(self, region: str, receipts: list[str]) -> None:
        entries = [{"Id": str(index), "ReceiptHandle": receipt} for index, receipt in enumerate(receipts)]
        try:
            await self._clients.call(
                "sqs", region, "delete_message_batch", QueueUrl=self._config.queues[region], Entries=entries
            )
        except ProviderError as error:  # they come again, and are known then
            level = _log.info if error.fault in (Fault.THROTTLED, Fault.NOT_SENT) else _log.warning
            level("messages can't be deleted", provider=self._name, region=region, why=str(error))
