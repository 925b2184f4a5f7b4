"""Every event of the contract is emitted by a real daemon, and every Request ends in what it says."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import get_args

import anyio
import httpx2 as httpx
import pytest

from actors.buying import Scaling
from actors.events import (
    BootstrapRequested,
    ClusterRequested,
    DrainRequested,
    Envelope,
    Event,
    EventJson,
    Instance,
    NodeInstance,
    PoolPauseRequested,
    PoolRequested,
    PoolResizeRequested,
    PoolUpdateRequested,
    Request,
    TaskStopRequested,
)
from actors.spec import Nodes
from controller.client import Operation
from controller.secrets.keys import write_new_key
from providers.agent.attach import agent_sha
from providers.host.keys import KeyStore
from providers.local.adapter import LocalProvider
from providers.local.config import LocalConfig
from providers.model import ClusterOrder, Order
from tests.real.receiver import Receiver, receiving
from tests.real.rig import REPOSITORY, Rig, pool_spec, until

pytestmark = pytest.mark.real

# Design section 4: what each Request ends in.
ENDS = {
    "pool_requested": {"pool_ready"},
    "cluster_requested": {"cluster_provisioned", "cluster_ready"},
    "instance_requested": {"instance_bootstrapped", "instance_replaced", "bootstrap_failed"},
    "bootstrap_requested": {"instance_bootstrapped", "bootstrap_failed"},
    "shutdown_requested": {"cluster_destroyed"},
    "pool_resize_requested": {"pool_resized"},
    "pool_update_requested": {"pool_updated"},
    "pool_pause_requested": {"pool_paused", "pool_resumed"},
    "drain_requested": {"instance_replaced", "instance_destroyed"},
    "task_requested": {"task_completed"},
    "task_stop_requested": {"task_completed"},
}
# The order of what happens to one machine.
LIFE = (
    "instance_launched",
    "instance_running",
    "instance_provisioned",
    "instance_bootstrapped",
    "instance_destroyed",
)

CONFIG = """
[[providers.local.offers]]
zone = "good"
on_demand = 0.01
[[providers.local.offers]]
zone = "full"
on_demand = 0.005
capacity = 0
"""
# A daemon with a bug in it: rules raise for one task. And a disk was left behind at its provider.
PLANTED = """
from pathlib import Path

from actors.task import rules
from controller.cli.main import main
from providers.local.adapter import LocalProvider
from providers.model import Handle, Leftover, Leftovers

decide = rules.decide


def planted(state, message, view):
    if getattr(getattr(state, "spec", None), "name", "") == "planted bug":
        raise ZeroDivisionError("planted")
    return decide(state, message, view)


rules.decide = planted
DISK = Path(__file__).with_name("disk")


async def leftovers(self, owner):
    disk = Leftover(kind="disk", handle=Handle(provider="local", ref="disk"), key=f"{owner}/long/0/1.1/1")
    return Leftovers(found=(disk,) if DISK.exists() else ())


async def remove(self, leftover):
    DISK.unlink()


LocalProvider.leftovers, LocalProvider.remove = leftovers, remove
main()
"""


def kinds(union: object) -> set[str]:
    """The kinds of all members of a union."""
    return {member.model_fields["kind"].default for member in get_args(union)}


def test_every_kind_of_event_is_seen(rig: Rig) -> None:
    (rig.root / "planted.py").write_text(PLANTED)
    rig.program = (str(rig.root / "planted.py"),)
    rig.bugs_wanted = True
    write_new_key(rig.root / "secrets.key")
    settings = f'quarantine_s = 1\nsecrets_key = {{ file = "{rig.root / "secrets.key"}" }}'
    rig.configure(daemon=settings, rest=CONFIG)
    (rig.root / "disk").touch()
    rig.start()
    seen: set[str] = set()
    with receiving() as receiver:
        rig.configure(daemon=settings, rest=CONFIG + receiver.config(rig.root, "pager"))
        administered(rig, receiver)
        rig.configure(daemon=settings, rest=CONFIG)
        rig.client.reload()
    instance = pools(rig)
    seen |= tasks(rig, instance)
    trouble(rig)
    strangers(rig)
    resizes(rig)
    pauses(rig)
    wishes(rig)
    for one in list(rig.client.pools()):
        rig.down(one["name"])
    events = rig.events()
    seen |= {envelope.event.kind for envelope in events}
    missing = kinds(Event) - seen
    assert missing == set(), f"never emitted: {sorted(missing)}"
    assert set(ENDS) == kinds(Request), "a new Request: say here what it ends in"
    check_ends(events)
    check_lives(events)
    check_causes(events)
    until(lambda: not rig.processes(), "no process is left", 10)


# --- making it happen ---------------------------------------------------------------------------------


def pools(rig: Rig) -> str:
    """A pool, a cluster, and a set-up that is run again; a machine of it."""
    steps = [{"phase": "hello", "run": "echo from the set-up; echo wrong >&2"}]
    assert rig.up(nodes=1, zone="good", image={"steps": steps}).status == "success"
    asked = ClusterRequested(provider="local", spec=pool_spec(1, zone="good"), pool="cluster")
    ready = rig.end_of(rig.client.submit(asked).request_id)
    assert ready.end is not None and ready.end["kind"] == "cluster_ready"
    instance = rig.machine_of()
    shown = next(
        one.event.instance
        for one in rig.events("instance_bootstrapped")
        if one.event.kind == "instance_bootstrapped" and one.event.instance.instance.id == instance
    )
    minimal = NodeInstance(
        instance=Instance(id=instance, status="ready", offer=shown.instance.offer),
        node=0,
        provider="",
        ssh_user="",
        ssh_key_path="",
    )
    again = rig.client.submit(BootstrapRequested(instance=minimal, cluster_id=""))
    ended = rig.end_of(again.request_id)
    assert ended.end is not None and ended.end["kind"] == "instance_bootstrapped"
    return rig.machine_of()


def tasks(rig: Rig, instance: str) -> set[str]:
    """Tasks and their telemetry; the kinds that were seen there."""
    task = rig.task('echo one; echo "loss 1" > "$EVERPOOL_METRICS_FILE"; sleep 2; echo two')
    rig.until_running(task)
    followed = list(telemetry(rig, "log", task=task, follow="true"))
    assert [one.line for one in followed if one.kind == "log"] == ["one", "two"]
    long = rig.task("sleep 60", grace_s=1)
    rig.until_running(long)
    stop = TaskStopRequested(pool="main", task_id=long)
    assert rig.end_of(rig.client.submit(stop).request_id).over
    measured = list(telemetry(rig, "metrics", instance=instance))
    assert any(one.kind == "metric" and one.task_id == task and one.name == "loss" for one in measured)
    printed = list(telemetry(rig, "console", instance=instance))
    assert {one.stream for one in printed if one.kind == "console_output"} == {"stdout", "stderr"}
    return {one.kind for one in (*followed, *measured, *printed)}


def telemetry(rig: Rig, what: str, **params: str) -> Iterator[Event]:
    """Events of a telemetry stream."""
    transport = httpx.HTTPTransport(uds=str(rig.state / "api.sock"))
    with (
        httpx.Client(base_url="http://everpool", transport=transport, timeout=30) as client,
        client.stream("GET", f"/v1/telemetry/{what}", params=params) as answer,
    ):
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.strip():
                told = json.loads(line)
                assert told["cursor"]
                yield EventJson.validate_python(told["event"])


def trouble(rig: Rig) -> None:
    """Notices, kills, refusals, set-ups that fail, a bug."""
    first = rig.machine_of()
    blocker = rig.task("trap '' TERM; sleep 1000", retries_infrastructure=0, on_notice="sleep 1000")
    rig.until_running(blocker)
    rig.give_notice(first, within_s=100, kill=False)
    rig.until_event("instance_preempted")
    rig.withdraw_notice(first)
    rig.until_event("notice_withdrawn")
    until(lambda: rig.machine_of() == first, "it stays")
    rig.kill_machine(first)
    rig.until_event("instance_replaced")

    full = PoolRequested(pool="full", spec=pool_spec(1, zone="full"), ready_within_s=3)
    ended = rig.end_of(rig.client.submit(full).request_id)
    assert ended.status == "failed" and ended.end is not None and ended.end["kind"] == "error"
    steps = [{"phase": "good", "run": "true"}, {"phase": "bad", "run": "echo no; exit 3"}]
    broken = rig.up("broken", nodes=1, zone="good", image={"steps": steps}, bootstrap_failures_max=1)
    assert broken.status == "failed"
    rig.until_event("pool_parked")

    rig.machine_of()
    bug = rig.task("true", name="planted bug")
    rig.until_event("bug_caught")
    done = rig.done(bug)
    assert (done.result, done.reason) == ("unknown", "bug")


def strangers(rig: Rig) -> None:
    """A machine of ours that the journal does not know; and machines that are known, after a restart."""
    owner = str(rig.health()["owner"])
    anyio.run(launch_a_stranger, rig, owner)
    rig.until_event("instance_quarantined")
    rig.until_event("instance_reaped")
    rig.until_event("leftover_removed")
    assert not (rig.root / "disk").exists()
    rig.restart()
    rig.until_event("instance_adopted")


async def launch_a_stranger(rig: Rig, owner: str) -> None:
    """What is left of a daemon whose journal was lost."""
    source = (REPOSITORY / "providers/agent/agent.py").read_bytes()
    assert agent_sha(source)
    provider = LocalProvider("local", LocalConfig(), rig.state / "providers/local", source)
    _, public = KeyStore(rig.root / "keys").cluster_key("stranger")
    order = ClusterOrder(cluster_id="stranger", owner=owner, pool="ghost", region="local", public_key=public)
    cluster = await provider.open_cluster(order)
    offer = (await provider.offers())[0]
    outcomes = await provider.launch(
        [
            Order(
                key=f"{owner}/ghost/0/7.1/1",
                owner=owner,
                epoch=1,
                pool="ghost",
                node=0,
                instance_id="ghost-0-7.1.1",
                offer=offer,
                cluster=cluster,
                public_key=public,
            )
        ]
    )
    assert not isinstance(outcomes[0], Exception), outcomes
    await provider.aclose()


def resizes(rig: Rig) -> None:
    """Sizes, specs, and nodes that are emptied."""

    def ended(request: Request) -> Operation:
        operation = rig.end_of(rig.client.submit(request).request_id)
        assert operation.status == "success", (operation, rig.log_tail(80))
        return operation

    ended(PoolResizeRequested(pool="main", nodes=2))
    steps = [{"phase": "hello", "run": "echo from the set-up; echo wrong >&2"}]
    spec = pool_spec(2, zone="good", image={"steps": steps}, drain_timeout=30)
    update = ended(PoolUpdateRequested(pool="main", spec=spec))
    assert update.end is not None and "drain_timeout" in update.end["changed"]
    replaced = ended(DrainRequested(pool="main", node=0))
    assert replaced.end is not None and replaced.end["kind"] == "instance_replaced"
    removed = ended(DrainRequested(pool="main", node=0, then="remove"))
    assert removed.end is not None and removed.end["kind"] == "instance_destroyed"
    time.sleep(0.2)
    assert [one["desired"] for one in rig.client.pools() if one["name"] == "main"] == [1]
    other = spec.model_copy(update={"image": spec.image.model_copy(update={"env": {"A": "b"}})})
    rolls = ended(PoolUpdateRequested(pool="main", spec=other.model_copy(update={"nodes": Nodes(desired=1)})))
    assert rolls.end is not None and rolls.end["outdated"] == 1
    rig.until_event("pool_rolled")


def pauses(rig: Rig) -> None:
    """A pool that rests for a moment."""
    for paused, kind in ((True, "pool_paused"), (False, "pool_resumed")):
        ended = rig.end_of(rig.client.submit(PoolPauseRequested(pool="main", paused=paused)).request_id)
        assert ended.end is not None and ended.end["kind"] == kind


def administered(rig: Rig, receiver: Receiver) -> None:
    """What administrators do, and a webhook that fails for a while."""
    rig.client.reload()
    rig.until_event("config_reloaded")
    until(lambda: rig.client.webhooks(), "the webhook is there")
    rig.client.hold(60)
    rig.until_event("administered")
    receiver.status = 500
    full = PoolRequested(pool="later", spec=pool_spec(0, zone="good"), reply_to="pager")
    rig.client.submit(full)
    rig.until_event("webhook_failing")
    receiver.status = 204
    rig.client.webhook_retry("pager")
    rig.until_event("webhook_recovered")
    assert rig.client.webhook_test("pager")["taken"]
    ask(rig, "POST", "/v1/tokens", {"name": "ci", "scope": "read"})
    ask(rig, "DELETE", "/v1/tokens/ci")
    ask(rig, "PUT", "/v1/secrets/db", {"values": {"PASSWORD": "x"}})
    ask(rig, "DELETE", "/v1/secrets/db")
    login = {"hostname": "registry.example", "user": "u", "password": "p"}
    ask(rig, "PUT", "/v1/credentials/hub", login)
    ask(rig, "DELETE", "/v1/credentials/hub")


def ask(rig: Rig, method: str, path: str, body: object = None) -> None:
    """Ask the API for something that has to be granted."""
    transport = httpx.HTTPTransport(uds=str(rig.state / "api.sock"))
    with httpx.Client(base_url="http://everpool", transport=transport, timeout=30) as client:
        answered = client.request(method, path, json=body)
        assert answered.is_success, (path, answered.text)


def wishes(rig: Rig) -> None:
    """A pool that follows its tasks, and one that spends what it may."""
    plain = pool_spec(0, zone="good")
    sizes = Nodes(desired=0, min=0, max=1)
    following = plain.model_copy(update={"nodes": sizes, "scaling": Scaling()})
    rig.client.submit(PoolRequested(pool="following", spec=following))
    task = rig.task("true", pool="following")
    rig.until_event("pool_scaled")
    assert rig.done(task).result == "success"
    # A machine at 0.01 dollars an hour: warned after some four seconds, over it after eleven.
    spends = {"total": 3e-5, "warn_at": 0.4, "then": "warn"}
    rig.client.submit(PoolRequested(pool="spending", spec=pool_spec(1, zone="good", budget=spends)))
    rig.until_event("budget_warned")
    rig.until_event("budget_reached")
    rig.client.submit(PoolUpdateRequested(pool="spending", spec=pool_spec(1, zone="good")))
    rig.until_event("budget_freed")


# --- what must hold of all of it ----------------------------------------------------------------------


def check_ends(events: list[Envelope]) -> None:
    """Every Request ended exactly once, in what it may end in."""
    requests = {one.event.request_id: one for one in events if isinstance(one.event, get_args(Request))}
    ends: dict[str, list[Envelope]] = defaultdict(list)
    for one in events:
        for request_id in one.ends:
            ends[request_id].append(one)
    assert set(ends) <= set(requests), "only what was asked can end"
    for request_id, asked in requests.items():
        found = ends[request_id]
        assert len(found) == 1, (asked, found)
        assert found[0].seq > asked.seq
        assert found[0].event.kind in ENDS[asked.event.kind] | {"error"}, (asked, found)


def check_lives(events: list[Envelope]) -> None:
    """What happens to a machine happens in order, each but once (set-ups may be repeated)."""
    lives: dict[str, list[str]] = defaultdict(list)
    for one in events:
        event = one.event
        instance = getattr(event, "instance_id", None)
        nested = getattr(event, "instance", None)
        if event.kind in LIFE:
            name = instance or (nested.id if isinstance(nested, Instance) else nested.instance.id)  # type: ignore[union-attr]
            lives[name].append(event.kind)
    for name, life in lives.items():
        once = list(dict.fromkeys(life))
        assert once == [step for step in LIFE if step in once], (name, life)
        assert all(life.count(step) == 1 for step in once if step != "instance_bootstrapped"), (name, life)
        assert life[-1] == "instance_destroyed", (name, life)


def check_causes(events: list[Envelope]) -> None:
    """Causes come before what they caused; seqs and times grow."""
    known: set[int] = set()
    for before, one in zip([None, *events], events, strict=False):
        assert before is None or (one.seq > before.seq)
        assert one.caused_by is None or one.caused_by in known, one
        known.add(one.seq)
