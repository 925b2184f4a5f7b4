"""What `everpool explain` and `everpool offers` print, and how they fail."""

import json
import signal
from typing import Any

import pytest

from actors.policy.situation import clock_time
from actors.spec import Nodes
from controller.cli.addressing import Where
from controller.cli.codes import USAGE, CliError
from controller.cli.command import Session
from controller.cli.explaining import accelerator_of, show_offers, show_pool, show_story
from controller.explain import explained
from controller.offering import Sort, Wanted, offered
from providers.model import MICRO, Accelerator, Offer
from tests.controller.cli.running import Face, daemon, until
from tests.controller.pictures import (
    DEAR,
    NOW,
    SPEC,
    SPOT_A,
    SPOT_B,
    ZETA,
    active,
    filled,
    machine,
    market,
    missing,
    offer,
    picture,
    world,
)

PLAIN = Session(Where(), json=False)


# --- explain --------------------------------------------------------------------------------------


def test_a_short_pool_at_a_glance(capsys: pytest.CaptureFixture[str]) -> None:
    words = "InsufficientInstanceCapacity"
    full = market(SPOT_A, refusals=4, last_fault="capacity", last_detail=words, last_refusal_at=NOW - 120)
    rests = market(ZETA, last_fault="throttled", last_detail="slow down", cool_until=NOW + 60)
    told = explained(
        picture(
            active(),
            [*(filled(rank) for rank in range(3)), missing(3, "all rest"), missing(4, "all rest")],
            [machine(rank) for rank in range(3)],
            around=world(SPOT_A, SPOT_B, DEAR, ZETA, markets=[full, rests]),
        )
    )
    show_story(PLAIN, told)
    show_pool(PLAIN, told)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "p is short: 3 of 5 nodes are ready."
    assert lines[1].startswith(
        "Nodes 3-4 have waited 12m for a machine: all rest; looked at again in 14s (15:00:14 UTC)"
    )
    text = "\n".join(lines)
    assert "3-4    12m  in 14s (15:00:14 UTC)  all rest" in text
    assert "i-0       0      ready   acme/east/a/small/spot  0.2500  cheapest of 2 markets" in text
    assert f"4 refusals, last refused 2m ago (capacity: {words})" in text
    assert f"cooling down until {clock_time(NOW + 60)}: slow down" in text
    assert "Policy: hazard (missing_node_hour 20.0" in text
    assert "Money: $0.7500 an hour now" in text


def test_many_machines_are_shown_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    spec = SPEC.model_copy(update={"nodes": Nodes(desired=40)})
    machines = [machine(rank, sold=SPOT_A if rank % 2 else SPOT_B) for rank in range(40)]
    show_pool(PLAIN, explained(picture(active(spec), [filled(rank) for rank in range(40)], machines)))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("20 ")]
    assert len(rows) == 2
    assert "and 12 more" in rows[0] and "6.0000" in rows[0]


def test_the_funnel_is_shown_when_nothing_fits(capsys: pytest.CaptureFixture[str]) -> None:
    spec = SPEC.model_copy(update={"vcpus": 64.0})
    show_pool(PLAIN, explained(picture(active(spec), [missing(rank) for rank in range(5)])))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["vcpus", "4", "0"] in lines


# --- offers ---------------------------------------------------------------------------------------

GPU = offer("g", "on_demand", kind="big", usd=8, vcpus=64).model_copy(update={"disk_gb": 500.0})
GPU = GPU.model_copy(
    update={
        "instance_type": GPU.instance_type.model_copy(
            update={"accelerator": Accelerator(name="H100", count=8), "architecture": "arm64"}
        )
    }
)
ALL = (SPOT_A, SPOT_B, DEAR, ZETA, GPU)


def found(wanted: Wanted, sort: Sort = "price", limit: int = 50, *sold: Offer) -> Any:
    return offered(world(*(sold or ALL)), wanted, sort, limit, NOW)


def names(answer: Any) -> list[str]:
    return [one["market"].removesuffix("/spot") for one in answer["offers"]]


@pytest.mark.parametrize(
    ("wanted", "left", "step"),
    [
        (Wanted(provider=("zeta",)), 1, "provider"),
        (Wanted(provider=("a*", "z?ta")), 5, None),
        (Wanted(region=("west",)), 0, "region"),
        (Wanted(zone=("a", "b")), 3, "zone"),
        (Wanted(instance_type=("b*",)), 1, "type"),
        (Wanted(instance_type=("[b]*",)), 0, "type"),
        (Wanted(lifecycle="spot"), 3, "lifecycle"),
        (Wanted(vcpus=3), 1, "vcpus"),
        (Wanted(memory_gb=5), 0, "memory"),
        (Wanted(disk_gb=600), 4, "disk"),
        (Wanted(accelerator="h1*"), 1, "accelerator"),
        (Wanted(count=9), 0, "count"),
        (Wanted(architecture="arm64"), 1, "architecture"),
        (Wanted(max_price=0.25), 2, "max-price"),
        (Wanted(pool=SPEC.model_copy(update={"vcpus": 64.0})), 1, "pool's vcpus"),
    ],
)
def test_each_filter_says_how_many_it_removed(wanted: Wanted, left: int, step: str | None) -> None:
    answer = found(wanted)
    assert answer["count"] == len(answer["offers"]) == left
    removed = {one["name"]: one["removed"] for one in answer["steps"] if one["removed"]}
    assert removed == ({step: 5 - left} if step is not None else {})


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        ("price", "zeta/east/z/small"),
        ("name", "acme/east/g/big/on_demand"),
        ("vcpus", "acme/east/g/big/on_demand"),
        ("memory", "zeta/east/z/small"),
        ("price-per-vcpu", "zeta/east/z/small"),
    ],
)
def test_sorting_and_limit(sort: Sort, first: str) -> None:
    answer = found(Wanted(), sort, 2)
    assert (len(answer["offers"]), answer["count"], names(answer)[0]) == (2, 5, first)
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer


def test_offers_with_age_and_what_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    rests = market(
        SPOT_A, losses=2, last_fault="throttled", last_refusal_at=NOW - 30, cool_until=NOW + 60, events=2.0
    )
    around = world(SPOT_A, GPU, markets=[rests], down={"zeta": "has not told its offers: 401"})
    show_offers(PLAIN, offered(around, Wanted(max_price=9), "price", 1, NOW))
    out, err = capsys.readouterr()
    head, row = out.splitlines()
    assert head.split()[:5] == ["PROVIDER", "TYPE", "ZONE", "HOW", "USD/H"]
    assert row.split()[:9] == ["acme", "small", "a", "spot", "0.2500", "2", "4", "-", "-"]
    assert " 1m " in row and "rests until 15:01:00 UTC, 3 launches, 1 refusal, 2 losses" in row
    assert "zeta told no offers: has not told its offers: 401" in err
    assert "1 of 2 offers; 1 more fit: raise --limit" in err
    show_offers(PLAIN, offered(around, Wanted(vcpus=100, lifecycle="spot"), "price", 9, NOW))
    assert "0 of 2 offers; removed by lifecycle 1, vcpus 1" in capsys.readouterr().err
    assert offered(around, Wanted(), "price", 9, NOW)["offers"][0]["usd_per_vcpu_hour"] == (
        SPOT_A.micro_usd_per_hour / 2 / MICRO
    )


def test_what_is_sorted_by_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show_offers(PLAIN, offered(world(SPOT_A), Wanted(), "price-per-vcpu", 1, NOW), per_vcpu=True)
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[4:7] == ["USD/H", "USD/VCPU/H", "VCPUS"]
    assert row.split()[4:7] == ["0.2500", "0.1250", "2"]


def test_tables_say_all_that_is_said_but_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    words = "no room " * 40
    rests = market(SPOT_A, last_fault="throttled", last_detail="slow down", cool_until=NOW + 60)
    around = world(SPOT_A, SPOT_B, markets=[rests])
    show_pool(PLAIN, explained(picture(active(), [missing(0, words)], around=around)))
    lines = capsys.readouterr().out.splitlines()
    assert any(words.strip() in line for line in lines)  # no terminal: nothing is cut
    [row] = [line for line in lines if "cooling down" in line]
    assert row.count("slow down") == 1


@pytest.mark.parametrize(
    ("text", "name", "number"), [(None, None, None), ("H100", "H100", None), ("H100:8", "H100", 8.0)]
)
def test_accelerators_as_users_write_them(text: str | None, name: str | None, number: float | None) -> None:
    assert accelerator_of(text) == (name, number)


@pytest.mark.parametrize("text", ["H100:", "H100:x", ":8", "H100:-1", "H100:inf", "H100:nan"])
def test_accelerators_that_can_not_be(text: str) -> None:
    with pytest.raises(CliError) as wrong:
        accelerator_of(text)
    assert wrong.value.code == USAGE and "such as H100:8" in str(wrong.value)


# --- against a daemon -----------------------------------------------------------------------------


@pytest.mark.real
def test_explain_and_offers_of_a_real_pool(house: Face) -> None:
    told = house("explain", "web")
    assert told.code == 0, told.err
    assert told.out.startswith("web is ready: 2 nodes of 2.")
    assert "Why there:" in house("explain", "web", "--instance", _machine(house)).out
    task = house("run", "web", "--detach", "--", "true").out.strip()
    until(lambda: "ended" in house("explain", "web", "--task", task).out)
    value = house("explain", "web", "--json").json
    assert (value["ready"], value["missing"]) == (2, [])
    listed = house("offers", "--lifecycle", "spot", "--zone", "local-[ab]", "--json").json
    assert [one["removed"] for one in listed["steps"]] == [0, 6, 0]
    assert "local-c" in house("offers", "--pool", "web", "--sort", "name").out
    assert house("explain", "wbe").code == 4
    assert "did you mean web?" in house("explain", "wbe").err
    assert house("explain", "web", "--task", "a", "--instance", "b").code == USAGE
    assert house("offers", "--accelerator", "H100:").code == USAGE
    assert house("offers", "--lifecycle", "spto").code == 2
    both = [house("offers", "--json", "--lifecycle", how).json["count"] for how in ("on-demand", "on_demand")]
    assert both[0] == both[1] > 0
    assert house("offers", "--provider", "loacl").code == 4


def _machine(house: Face) -> str:
    return str(house("ps", "instances", "--json").json[0]["id"])


@pytest.mark.real
def test_a_pool_that_nothing_can_fill_is_refused_and_the_others_are_made(face: Face) -> None:
    pools = '[pools.big]\nprovider = "local"\nvcpus = 64\n[pools.small]\nprovider = "local"\nnodes = 0\n'
    with daemon(face, pools) as process:
        until(lambda: [one["name"] for one in face("ps", "--json").json] == ["small"])
        checked = face("check", str(face.directory / "everpool.toml"))
        assert checked.code == USAGE
        assert "everpool.toml:6: pools.big.vcpus: No offer fits: of 6 offers of local" in checked.err
        reloaded = face("reload", "--json")
        assert reloaded.json["pools"]["big"].startswith("not applied: ")
        assert reloaded.code == 1
        until(lambda: face("offers", "--json").json["count"] == 6)
        refused = face("up", "huge", "--set", "memory_gb=99")
        assert refused.code == USAGE
        assert (
            "No offer fits: of 6 offers of local, memory_gb (99) removed all of them (has 4 GB" in refused.err
        )
        assert "memory_gb: removed 6, left 0" in refused.err
        part = face("up", "part", "--set", "max_hourly_cost=0.005", "--set", "on_demand.floor=1")
        assert part.code == USAGE
        assert "No on-demand offer fits, and on_demand.floor wants 1 node of them" in part.err
        poor = face("up", "poor", "--set", "budget.total=0.0001")
        assert poor.code == USAGE
        assert "set aside, for its set-up and its end, and the budget is $0.0001 in all" in poor.err
        process.send_signal(signal.SIGHUP)
        assert face("ps").code == 0
