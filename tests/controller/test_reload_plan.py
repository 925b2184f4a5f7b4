"""The plan of a reload: every key that differs is told, once, with what becomes of it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from actors.instance.state import Requested
from actors.policy.built import Build
from actors.pool.state import Active, Draining
from actors.spec import PoolSpec
from controller.config import Config, DaemonConfig, parse
from controller.desk import CONFIG
from controller.differences import differences
from controller.reload import LIVE, Plan, in_force, plan
from providers.model import InstanceType
from tests.actors.model import cluster_handle, offer

BASE = """\
[daemon]
observe_every_s = 5

[providers.home]
type = "local"

[pools.p]
provider = "home"
nodes = 2
"""


def config(*changed: tuple[str, str], more: str = "") -> Config:
    text = BASE
    for old, new in changed:
        assert old in text
        text = text.replace(old, new)
    return parse(text + more, "x")


def planned(new: Config, *, machines: int = 0) -> Plan:
    old = config()
    pool = old.pools["p"]
    assert pool.spec is not None
    state = Active(name="p", generation=1, spec=pool.spec, desired=2, made_by=CONFIG)
    there = [machine(name, pool.spec) for name in range(machines)]
    return plan(old, new, {"p": state}, {"p": there})


SMALL = InstanceType(name="small", vcpus=1, memory_gb=1)


def machine(number: int, spec: PoolSpec) -> Requested:
    """One that is on its way, of one vcpu, as this spec asks for it."""
    return Requested(
        id=f"p-{number}",
        key=f"owner/p/{number}/1.1/1",
        pool="p",
        node=number,
        request_id="x",
        offer=offer(provider="home").model_copy(update={"instance_type": SMALL}),
        cluster=cluster_handle(),
        created_at=0,
        since=0,
        asked_at=0,
        image=Build.of(spec, None).mark,
    )


def test_nothing_changed() -> None:
    made = planned(config())
    assert (made.lines, made.requests, made.needs_restart) == ([], {}, [])


def test_each_key_is_told_with_what_becomes_of_it() -> None:
    changed = config(
        ("observe_every_s = 5", 'observe_every_s = 7\nsocket_mode = "0660"'),
        ("nodes = 2", "nodes = { desired = 3, min = 1 }"),
        more='[providers.far]\ntype = "simulated"\n'
        '[webhooks.w]\nurl = "https://e.org"\nsecret = { env = "X" }\n',
    )
    made = planned(changed)
    assert made.lines == [
        'at the next start: daemon.socket_mode: "0600" -> "0660"',
        "in place: daemon.observe_every_s: 5.0 -> 7.0",
        "in place: providers.far: new, of type simulated",
        "in place: webhooks.w: new",
        "in place: pools.p.nodes.desired: 2 -> 3",
        "in place: pools.p.nodes.min: 1 (new)",
    ]
    assert made.providers_added == ["far"]
    assert made.needs_restart == ["daemon.socket_mode"]
    assert list(made.requests) == ["p"]


def test_a_webhook_that_goes_is_told_with_what_waits_for_it() -> None:
    named = config(more='[webhooks.w]\nurl = "https://e.org"\nsecret = { env = "X" }\n')
    text = "in place: webhooks.w: taken away"
    assert plan(named, config(), {}).lines[0] == text
    lost = f"{text}; 3 events and 1 replies that wait are dropped"
    assert plan(named, config(), {}, waiting={"w": (3, 1)}).lines[0] == lost


def test_providers_that_change_wait_for_a_restart_and_are_told_again() -> None:
    changed = config(('type = "local"', 'type = "local"\nmachines_max = 3'))
    made = planned(changed)
    (line,) = made.lines
    assert line.startswith("at the next start: providers.home.machines_max: ") and line.endswith(" -> 3")
    held = in_force(config(), changed, made.providers_added)
    assert held.providers == config().providers
    assert plan(held, changed, {}).needs_restart == ["providers.home"]


def test_what_is_live_holds_and_the_rest_stays() -> None:
    changed = config(("observe_every_s = 5", 'observe_every_s = 7\nsocket_mode = "0660"'))
    held = in_force(config(), changed, ())
    assert (held.daemon.observe_every_s, held.daemon.socket_mode) == (7, "0600")


def test_machines_that_are_not_what_a_spec_asks_for_are_replaced_and_it_is_told_how_many() -> None:
    changed = config(("nodes = 2", "nodes = 3\nvcpus = 2"))
    made = planned(changed, machines=2)
    text = "2 of 2 machines are replaced, a few at a time"
    assert made.lines == [
        "in place: pools.p.nodes.desired: 2 -> 3",
        "rolling replace: pools.p.vcpus: 2.0 (new)",
        f"rolling replace: pools.p: {text}",
    ]
    assert made.pools["p"] == f"updated: {text}"
    assert list(made.requests) == ["p"]
    for small, machines in (("vcpus = 1", 2), ("vcpus = 2", 0)):  # they have it; there are none
        made = planned(config(("nodes = 2", f"nodes = 2\n{small}")), machines=machines)
        assert (made.pools["p"], list(made.requests)) == ("updated", ["p"])
        assert [line.split(":")[0] for line in made.lines] == ["in place"]


def test_a_gang_is_not_parted() -> None:
    changed = config(("nodes = 2", 'nodes = 2\nvcpus = 2\nspread = "together"'))
    made = planned(changed, machines=2)
    assert made.pools["p"].startswith("not applied: vcpus can't change under the living machines of a gang")
    assert made.requests == {} and all(line.startswith("refused: pools.p") for line in made.lines)
    assert list(planned(changed).requests) == ["p"]


def test_a_pool_that_is_taken_out_is_told_until_somebody_says_what_becomes_of_it() -> None:
    without = parse(BASE[: BASE.index("[pools.p]")], "x")
    made = planned(without)
    what = "no longer in the config, lives on; remove = true drains it"
    assert (made.pools, made.requests) == ({"p": f"left alone: {what}"}, {})
    assert made.lines == [f"left alone: pools.p: {what}"]
    spec = config().pools["p"].spec
    assert spec is not None
    lives = Active(name="p", generation=1, spec=spec, desired=2, made_by=CONFIG)
    assert plan(without, without, {"p": lives}).lines == made.lines  # again, the next time
    by_hand = lives.model_copy(update={"made_by": "user"})
    goes = Draining(name="p", generation=1, spec=spec, desired=2, made_by=CONFIG, reason="user")
    for state in (by_hand, goes, None):
        assert plan(without, without, {"p": state}).lines == []


def test_values_of_environments_are_not_told() -> None:
    changed = config(("nodes = 2", 'nodes = 2\n[pools.p.image]\nenv = { KEY = "hush" }'))
    lines = planned(changed).lines
    assert lines and not any("hush" in line for line in lines)


def test_of_urls_only_where_they_go_to_is_told() -> None:
    def hook(url: str) -> Config:
        return config(more=f'[webhooks.w]\nurl = "{url}"\nsecret = {{ env = "X" }}\n')

    changed = hook("https://e.org/services/OLDPATH?key=OLDSECRET"), hook("https://e.org:81/x?key=NEWSECRET")
    assert (
        plan(*changed, {}).lines[0] == 'in place: webhooks.w.url: "https://e.org/…" -> "https://e.org:81/…"'
    )
    again = hook("https://e.org/services/OTHER")
    lines = plan(changed[0], again, {}).lines
    assert lines[0] == 'in place: webhooks.w.url: "https://e.org/…" -> "https://e.org/…"'


def test_what_is_new_as_a_whole_is_told_without_its_values() -> None:
    class Whole(BaseModel):
        image: dict[str, Any] | None = None

    image = {"env": {"K": "hush"}, "mirrors": ["https://m.org/HUSH"], "bad": "http://[HUSH"}
    (told,) = differences(Whole(), Whole(image=image))
    assert told.after.startswith('{"env":"(a value)"') and "hush" not in str(told).lower()


def test_every_live_key_exists() -> None:
    assert set(DaemonConfig.model_fields) >= LIVE


_KEYS: dict[str, st.SearchStrategy[Any]] = {
    "observe_every_s": st.integers(1, 100),
    "quarantine_s": st.integers(1, 100),
    "events_max": st.integers(1000, 5000),
    "log_level": st.sampled_from(["debug", "info"]),
    "socket_mode": st.sampled_from(["0600", "0660"]),
}


@given(st.fixed_dictionaries({}, optional=_KEYS), st.fixed_dictionaries({}, optional=_KEYS))
def test_differences_name_exactly_the_keys_that_differ(one: dict[str, Any], other: dict[str, Any]) -> None:
    before, after = DaemonConfig(**one), DaemonConfig(**other)
    told = {found.key for found in differences(before, after)}
    assert told == {key for key in _KEYS if getattr(before, key) != getattr(after, key)}
