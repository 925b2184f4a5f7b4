"""The live screen: what it shows, and its keys."""

from typing import Any

import pytest
from rich.console import Console

from actors.events import Envelope, PoolReady, TaskQueued
from controller.cli.keyboard import named
from controller.cli.top_view import Known, View, frame


def pool(name: str, **more: Any) -> dict[str, Any]:
    there = {
        "name": name,
        "status": "ready",
        "ready": 2,
        "desired": 3,
        "queue": 1,
        "tasks": {"running": 4, "pending": 1},
        "usd_per_hour": 0.5,
        "reason": "",
    }
    return there | more


def node(number: int, status: str = "filled") -> dict[str, Any]:
    return {
        "node": number,
        "status": status,
        "instance_id": f"web-{number}-1.1.1",
        "old_instance_id": None,
        "instance_status": "ready",
        "since": 0.0,
        "why_waiting": "a very long reason that no terminal has room for, " * 4,
    }


def known(pools: int = 2, nodes: int = 40, view: View = "nodes") -> Known:
    found = Known(view=view)
    found.took_pools([pool(f"pool-{number}") for number in range(pools)])
    found.cost = {
        "today_usd": 1.5,
        "pools": [
            {
                "pool": "pool-0",
                "today_usd": 1.0,
                "budget": {
                    "periods": [{"period": "day", "limit_usd": 4.0, "left_usd": 1.0, "reached": False}]
                },
            }
        ],
    }
    found.rows, found.rows_of = [node(number) for number in range(nodes)], ("pool-0", "nodes")
    for seq in range(50):
        event = PoolReady(pool="pool-0", nodes=seq)
        found.events.append(Envelope(seq=seq, at=0, pool="pool-0", event=event))
    return found


def lines(it: Known, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, record=True, file=open("/dev/null", "w"))
    with console.capture() as shown:
        console.print(frame(it, width, height))
    console.file.close()
    return shown.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (200, 60)])
@pytest.mark.parametrize("pools", [0, 1, 30])
def test_a_frame_fits(width: int, height: int, pools: int) -> None:
    shown = lines(known(pools), width, height)
    assert len(shown) <= height
    assert all(len(line) <= width for line in shown)


def test_what_is_shown() -> None:
    shown = "\n".join(lines(known(), 100, 30))
    assert "▶  pool-0" in shown and "75% of $4.00 a day" in shown and "$1.50 today" in shown
    assert "pool ready: 49 nodes" in shown and "more" in shown and "2/3" in shown


def test_events_that_can_not_be_had_are_told_unless_the_daemon_is_away() -> None:
    it = known()
    it.missed = "events up to seq 5 are not all kept any more"
    assert it.missed in lines(it, 150, 30)[0]
    it.lost = "no daemon answers"
    assert "no daemon" in lines(it, 150, 30)[0] and it.missed not in lines(it, 150, 30)[0]


def test_what_is_on_its_way_comes_first_and_chatter_not_at_all() -> None:
    it = known(nodes=20)
    it.rows = [*it.rows, node(77, "vacant")]
    it.events.append(Envelope(seq=99, at=0, pool="pool-0", event=TaskQueued(task_id="t", attempt=1)))
    shown = lines(it, 100, 24)
    first = next(place for place, line in enumerate(shown) if line.lstrip().startswith("NODE"))
    assert shown[first + 1].split()[0] == "77"
    assert not any("is queued" in line for line in shown)


def test_a_small_terminal_shows_what_matters() -> None:
    it = known(pools=2, nodes=3)
    it.pools[1]["reason"] = "machines could not be set up"  # type: ignore[index]
    text = lines(it, 40, 12)
    assert "2/3" in text[2] and "ready" in text[2] and "pool-0" in text[2]
    assert "machines" in text[3] and any("filled" in line for line in text[-3:])
    assert "? q" in text[0] and len(text) <= 12


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 24), (40, 12), (80, 10)])
def test_the_reason_of_the_chosen_pool_is_told_whole_above_its_nodes(width: int, height: int) -> None:
    it = known(pools=2, nodes=9)
    it.rows = [{**node(number), "why_waiting": ""} for number in range(9)]
    reason = "3 of 9 machines are of the old spec: being replaced; Just now: the quota of acme is full"
    it.pools[0]["reason"] = reason  # type: ignore[index]
    text = lines(it, width, height)
    assert len(text) <= height and all(len(line) <= width for line in text)
    assert any("filled" in line for line in text)
    if height == 24:
        above = text[: next(at for at, line in enumerate(text) if line.lstrip().startswith("NODE"))]
        assert reason in " ".join(" ".join(above).split())
    it.choose(1)
    assert "Just now" not in "\n".join(lines(it, 50, 24))


def test_one_screen_for_a_pipe_has_no_keys_and_no_empty_list() -> None:
    it = known(nodes=2)
    it.events.clear()
    console = Console(width=100, height=40)
    with console.capture() as shown:
        console.print(frame(it, 100, 40, once=True))
    assert "quit" not in shown.get() and "1:nodes" not in shown.get() and "── events" not in shown.get()
    assert "quit" in "\n".join(lines(it, 100, 40)) and "none yet" in "\n".join(lines(it, 100, 40))


def test_a_quiet_pool_shows_what_happened_to_it_before_the_others_were_busy() -> None:
    it = known()
    it.choose(1)
    quiet = Envelope(seq=3, at=0, pool="pool-1", event=PoolReady(pool="pool-1", nodes=77))
    it.older, it.older_of = [quiet], "pool-1"
    text = "\n".join(lines(it, 100, 30))
    assert "pool ready: 77 nodes" in text and "49 nodes" not in text


def test_rows_of_another_pool_are_never_shown() -> None:
    it = known()
    it.choose(1)
    assert it.chosen == "pool-1"
    assert not any("web-3" in line for line in lines(it, 100, 30))
    it.choose(5)
    assert it.chosen == "pool-1"
    it.took_pools([pool("other")])
    assert it.chosen == "other"


@pytest.mark.parametrize(
    ("raw", "keys"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[B", ["up", "down"]),
        (b"\x1bOAjk", ["up", "j", "k"]),
        (b"\t\x1b[Z", ["tab", "back-tab"]),
        (b"\x1b", ["escape"]),
        (b"\x1b[15~", []),
    ],
)
def test_keys(raw: bytes, keys: list[str]) -> None:
    assert named(raw) == keys
