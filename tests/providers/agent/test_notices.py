"""What several sources say of the machine's end: one word, told when it changes."""

import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.agent import agent as a
from tests.providers.agent.rig import start
from tests.providers.agent.world import World


def fresh(**hello: Any) -> World:
    world = World()
    world.connect(**hello)
    return world


def told(world: World) -> list[tuple[str, float | None]]:
    """Each word that the daemon heard; ("", None) that there is none any more."""
    reports = [m for m in world.daemon.reports if m["t"] in ("notice", "notice_gone")]
    return [(m.get("reason", ""), m.get("within_s")) for m in reports]


def test_an_early_word_without_an_end_is_followed_by_the_end() -> None:
    world = fresh()
    world.say(start("saves", "true", on_notice="save"))
    world.step(a.Noticed("rebalance recommendation", None, "aws-rebalance"))
    hook = next(act for act in world.acts if isinstance(act, a.Hook))
    assert (hook.reason, hook.seconds) == ("rebalance recommendation", None)
    assert world.core.next_wake() is None or world.core.live["saves", 1].kill_at is None
    world.step(a.Noticed("spot interruption: terminate", 120.0, "aws"))
    assert told(world) == [("rebalance recommendation", None), ("spot interruption: terminate", 120)]
    assert world.core.live["saves", 1].kill_at == world.now + 118
    assert len([act for act in world.acts if isinstance(act, a.Hook)]) == 1


def test_it_is_over_when_nobody_says_it_any_more() -> None:
    world = fresh()
    world.step(a.Noticed("rebalance recommendation", None, "aws-rebalance"))
    world.step(a.Noticed("spot interruption: terminate", 120.0, "aws"))
    world.step(a.Noticed("operator", 300.0))
    world.step(a.Noticed(None, None, "aws-rebalance"))
    assert len(told(world)) == 2  # the soonest end was known
    world.step(a.Noticed(None, None, "aws"))
    assert told(world)[2:] == [("operator", 300)]
    world.say(start("late", "true"))
    assert not world.ever_spawned
    world.step(a.Noticed(None))
    assert told(world)[3:] == [("", None)]
    world.say(start("again", "true"))
    assert world.ever_spawned == [("again", 1)]


def test_the_soonest_end_counts_whoever_names_it() -> None:
    world = fresh()
    world.say(start("t", "true", grace_s=1000))
    world.step(a.Noticed("maintenance", 60.0, "gcp-maintenance"))
    assert world.core.live["t", 1].kill_at == world.now + 58
    world.step(a.Noticed("preempted", 30.0, "gcp"))
    assert told(world) == [("maintenance", 60), ("preempted", 30)]
    assert world.core.live["t", 1].kill_at == world.now + 28
    assert [act.sig for act in world.acts if isinstance(act, a.Signal)] == [signal.SIGTERM]


def test_a_word_that_is_said_again_is_told_once() -> None:
    world = fresh()
    world.step(a.Noticed("spot interruption: terminate", 120.0, "aws"))
    world.now += 10
    world.step(a.Noticed("spot interruption: terminate", 110.4, "aws"))
    world.restart()
    world.step(a.Noticed("spot interruption: terminate", 109.5, "aws"))
    world.connect()
    assert len(told(world)) == 1
    world.step(a.Noticed("spot interruption: terminate", 60.0, "aws"))  # it moved
    world.step(a.Noticed(None, None, "gcp"))  # never said
    assert told(world)[1:] == [("spot interruption: terminate", 60)]


def test_what_each_said_is_known_to_the_next_process() -> None:
    world = fresh()
    world.step(a.Noticed("rebalance recommendation", None, "aws-rebalance"))
    world.step(a.Noticed("spot interruption: stop", 120.0, "aws"))
    world.restart()
    world.connect()
    world.step(a.Noticed(None, None, "aws"))
    assert told(world)[2:] == [("rebalance recommendation", None)]
    world.step(a.Noticed(None, None, "aws-rebalance"))
    assert told(world)[3:] == [("", None)]


def test_a_drain_says_nothing_of_the_vendor() -> None:
    world = fresh()
    world.say({"t": "drain", "epoch": 1, "within_s": 10})
    world.step(a.Noticed("preempted", 30.0, "gcp"))
    world.step(a.Noticed(None, None, "gcp"))
    assert told(world) == [("preempted", 30), ("", None)]
    world.say(start("t", "true"))
    assert not world.ever_spawned  # the drain still holds


SOURCES = ("file", "aws", "aws-rebalance", "gcp")
WORDS = st.tuples(
    st.sampled_from(SOURCES),
    st.one_of(st.none(), st.tuples(st.sampled_from("xyz"), st.one_of(st.none(), st.integers(0, 300)))),
)


@given(st.lists(WORDS, max_size=12), st.sets(st.integers(0, 11)))
def test_what_was_told_last_is_what_they_say_together(
    said: list[tuple[str, tuple[str, int | None] | None]], restarts: set[int]
) -> None:
    world = fresh()
    now: dict[str, tuple[str, int | None]] = {}
    for number, (source, word) in enumerate(said):
        if source == "aws-rebalance" and word is not None:
            word = (word[0], None)  # a recommendation names no end
        reason, within_s = word or (None, None)
        world.step(a.Noticed(reason, within_s, source))
        if word is None:
            now.pop(source, None)
        else:
            now[source] = word
        if number in restarts:
            world.restart()
            world.connect()
        taken = [word for source, word in now.items() if source != "aws-rebalance"]
        ends = [end for _, end in taken if end is not None]
        heard = told(world)
        if not now:
            assert not heard or heard[-1] == ("", None)
            continue
        assert heard[-1][0] in {why for why, end in taken or now.values() if not ends or end == min(ends)}
        assert heard[-1][1] == (min(ends) if ends else None)
        world.say(start(f"t{number}", "true"))
    assert bool(world.core.notices) == bool(now)
    for before, after in zip(told(world), told(world)[1:], strict=False):
        assert before != after


@pytest.mark.parametrize(
    "records",
    [
        [["notice", "file", "spot", 500.0]],
        [["notice", "aws", "spot", None], ["notice", "drain", "drain", 200.0]],
    ],
)
def test_the_spool_of_an_older_agent_is_understood(records: list[Any]) -> None:
    core = a.Core("b")
    for record in records:
        core.replay(record)
    core.step(1.0, a.Resume())
    source = records[0][1]
    acts = core.step(2.0, a.Noticed(None, None, source))
    assert [act.record[1]["t"] for act in acts if isinstance(act, a.Persist) and act.record[0] == "r"] == [
        "notice_gone"
    ]
