"""The rule about the story of an instance: its events come in the order that the contract gives."""

from typing import Any

from actors.events import (
    BootstrapCommand,
    BootstrapFailed,
    BootstrapPhase,
    BootstrapRequested,
    InstanceAdopted,
    InstanceBootstrapped,
    InstanceDestroyed,
    InstanceLaunched,
    InstancePreempted,
    InstanceProvisioned,
    InstanceReplaced,
    InstanceRequested,
    InstanceRunning,
    LaunchRefused,
    NoticeWithdrawn,
)
from tests.simulation.referee.base import Checker

# How far an instance is: 0 ordered, 1 launched, 2 has an address, 3 connected, 4 set up, 5 on its way out,
# 9 over.
GONE = 9


class LegalOrder(Checker):
    """Requested, Launched, Running, Provisioned, BootstrapPhase*, Bootstrapped or Failed, then Preempted,
    (Requested replacing=...), Replaced, Destroyed."""

    name = "events of an instance are in order"
    events = (
        InstanceRequested,
        InstanceLaunched,
        InstanceRunning,
        InstanceProvisioned,
        InstanceAdopted,
        BootstrapRequested,
        BootstrapPhase,
        BootstrapCommand,
        InstanceBootstrapped,
        BootstrapFailed,
        InstancePreempted,
        NoticeWithdrawn,
        InstanceReplaced,
        InstanceDestroyed,
        LaunchRefused,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.stage: dict[str, int] = {}
        self._replacing: dict[str, str | None] = {}  # by request id
        self._filled: dict[tuple[str, int], str] = {}  # the last machine that was set up for a node

    def event(self, envelope: Any, event: Any) -> None:
        """The next step of one instance."""
        match event:
            case InstanceRequested():
                self._requested(envelope.pool, event)
            case InstanceLaunched(instance_id=name):
                self._step(name, event, (0,), 1)
                if event.request_id not in self._replacing:
                    self.fail(f"{name} is launched for {event.request_id}, which nobody asked", name)
            case InstanceRunning(instance=instance):
                self._step(instance.id, event, (1,), 2)
            case InstanceProvisioned(instance=value):
                self._step(value.instance.id, event, (2,), 3)
            case BootstrapRequested(instance=value):
                if not envelope.principal:
                    self._step(value.instance.id, event, (3, 4), None)
            case BootstrapPhase(instance=value) | BootstrapCommand(instance=value):
                self._step(value.instance.id, event, (3, 4), None)
            case InstanceBootstrapped(instance=value):
                self._step(value.instance.id, event, (3, 4), 4)
                if self._replacing.get(envelope.request_id or "") is None:  # else InstanceReplaced follows
                    self._filled[(envelope.pool, value.node)] = value.instance.id
            case BootstrapFailed(instance=value):
                self._step(value.instance.id, event, (3, 4), 5)
            case InstancePreempted(instance=value):
                self._step(value.instance.id, event, (1, 2, 3, 4), 5)
            case NoticeWithdrawn(instance_id=name):
                self._step(name, event, (5,), 4)
            case InstanceReplaced():
                self._replaced(envelope.pool, event)
            case InstanceDestroyed(instance_id=name):
                self._step(name, event, (1, 2, 3, 4, 5), GONE)
            case InstanceAdopted(instance_id=name):
                self._step(name, event, (0, 1, 2, 3, 4, 5), None)
            case LaunchRefused(instance_id=name):
                self._step(name, event, (0,), GONE)
            case _:
                return

    def _step(self, name: str, event: object, allowed: tuple[int, ...], to: int | None) -> None:
        stage = self.stage.get(name, 0)
        if stage not in allowed:
            self.fail(f"{type(event).__name__} of {name} in stage {stage}", name)
        if to is not None:
            self.stage[name] = to

    def _requested(self, pool: str, event: InstanceRequested) -> None:
        last = self._filled.get((pool, event.node_id))
        if None not in (event.replacing, last) and event.replacing != last:
            text = (
                f"{event.request_id} replaces {event.replacing}, {last} was the last on node {event.node_id}"
            )
            self.fail(text, event.request_id, event.replacing or "")
        self._replacing[event.request_id] = event.replacing

    def _replaced(self, pool: str, event: InstanceReplaced) -> None:
        name, place = event.new.instance.id, (pool, event.new.node)
        self._step(name, event, (4,), 4)
        last = self._filled.get(place, event.old_id)
        if self._replacing.get(event.request_id) != event.old_id or last != event.old_id:
            text = f"{name} replaces {event.old_id}, {last} was the last on node {event.new.node}"
            self.fail(text, name, event.old_id)
        self._filled[place] = name
