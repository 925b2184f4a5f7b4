"""Webhooks of a real daemon that is killed: every chosen event arrives, in order; replies do as well."""

import pytest

from actors.events import (
    DrainRequested,
    PoolPauseRequested,
    PoolRequested,
    PoolResizeRequested,
    Request,
    ShutdownRequested,
    TaskRequested,
)
from actors.spec import TaskSpec
from controller.client import EverpoolError
from tests.real.receiver import Receiver, receiving
from tests.real.rig import Rig, pool_spec, until

pytestmark = pytest.mark.real


def test_what_was_chosen_arrives_over_a_kill_and_so_do_replies(rig: Rig) -> None:
    with receiving() as receiver:
        rig.configure(rest=receiver.config(rig.root, "pager", "pool_*", "webhook_*"))
        rig.start()
        until(lambda: [one["name"] for one in rig.client.webhooks()] == ["pager"], "the webhook is there")
        assert rig.up(nodes=1).status == "success"
        until(lambda: "pool_ready" in kinds(receiver), "it is told that the pool is ready")

        for request in (PoolPauseRequested(pool="main", reply_to="nobody"), *others("nobody")):
            with pytest.raises(EverpoolError, match="no webhook 'nobody' in the config: there are pager"):
                rig.client.submit(request)

        receiver.status = 500
        waits = TaskRequested(
            request_id="t-waits", pool="main", task=TaskSpec(argv=("sleep", "1000")), reply_to="pager"
        )
        rig.client.submit(waits)
        rig.until_running("t-waits")
        paused = rig.client.submit(PoolPauseRequested(pool="main", reply_to="pager"))
        assert rig.end_of(paused.request_id).status == "success"
        rig.until_event("webhook_failing")
        before = len(receiver.taken)
        rig.kill()
        receiver.status = 204
        rig.start()
        rig.until_event("webhook_recovered")
        until(lambda: "pool_paused" in kinds(receiver)[before:], "what happened while it failed arrives")
        [view] = rig.client.pools()
        assert (view["status"], view["status_code"]) == ("paused", 7)
        assert "paused by unix:" in view["reason"]

        instance = rig.machine_of()
        rig.kill_machine(instance)  # the task goes with it, and nothing is launched in its place
        until(lambda: rig.client.task("t-waits")["status"] == "pending", "the task waits")
        assert "paused" in " ".join(rig.client.explain("main")["story"])
        rig.client.submit(PoolResizeRequested(pool="main", nodes=1))
        resumed = rig.client.submit(PoolPauseRequested(pool="main", paused=False, reply_to="pager"))
        assert rig.end_of(resumed.request_id).status == "success"
        assert rig.machine_of() != instance
        rig.until_running("t-waits")
        rig.down()
        until(lambda: any("t-waits" in one.ends for one in receiver.taken), "the task's end is told")

        wanted = [one.seq for one in rig.events() if chosen(one.event.kind)]
        until(lambda: set(wanted) <= set(receiver.seqs), "every chosen event arrives")
        firsts = list(dict.fromkeys(receiver.seqs))
        assert firsts == sorted(firsts)
        replies = {seq for seq in receiver.seqs if seq not in wanted}
        assert {one.event.kind for one in receiver.taken if one.seq in replies} <= {"task_completed", "error"}
        said = rig.client.webhook_test("pager")
        assert said["taken"]
        assert 0 in receiver.seqs


def others(reply_to: str) -> list[Request]:
    """Other Requests that name who is to hear of their end."""
    task = TaskSpec(argv=("true",))
    return [
        TaskRequested(pool="main", task=task, reply_to=reply_to),
        PoolResizeRequested(pool="main", nodes=1, reply_to=reply_to),
        DrainRequested(pool="main", node=0, reply_to=reply_to),
        ShutdownRequested(cluster_id="main", reply_to=reply_to),
        PoolRequested(pool="new", spec=pool_spec(0), reply_to=reply_to),
    ]


def chosen(kind: str) -> bool:
    """Whether the config chooses it; its own troubles are not sent to it."""
    return kind.startswith("pool_") or kind == "webhook_tested"


def kinds(receiver: Receiver) -> list[str]:
    """Of what was taken, in order."""
    return [one.event.kind for one in receiver.taken]
