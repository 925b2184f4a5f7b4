"""What a config that is read anew asks of the pools there are."""

import pytest

from actors.events import PoolRequested, PoolUpdateRequested, Request, ShutdownRequested
from actors.pool.state import Active, Draining, PoolState
from actors.spec import Nodes, PoolSpec
from controller.config import PoolConfig
from controller.desk import CONFIG
from controller.reload import changes

SPEC = PoolSpec(provider=("local",), nodes=Nodes(desired=2))
MORE = PoolSpec(provider=("local",), nodes=Nodes(desired=3))


def there(made_by: str = CONFIG) -> Active:
    return Active(name="p", generation=1, spec=SPEC, desired=2, made_by=made_by)


DRAINING = Draining(name="p", generation=1, spec=SPEC, desired=2, made_by=CONFIG, reason="user")


@pytest.mark.parametrize(
    ("pool", "states", "done"),
    [
        (PoolConfig(SPEC), {}, ("made", PoolRequested(pool="p", spec=SPEC))),
        (PoolConfig(SPEC), {"p": there()}, None),
        (PoolConfig(SPEC), {"p": None}, None),
        (PoolConfig(MORE), {"p": there()}, ("updated", PoolUpdateRequested(pool="p", spec=MORE))),
        (
            PoolConfig(MORE),
            {"p": there("user")},
            ("left alone: a pool of that name was made by the API", None),
        ),
        (PoolConfig(SPEC, remove=True), {"p": there()}, ("removed", ShutdownRequested(cluster_id="p"))),
        (PoolConfig(None, remove=True), {"p": None}, ("removed", ShutdownRequested(cluster_id="p"))),
        (PoolConfig(None, remove=True), {"p": DRAINING}, None),
        (PoolConfig(None, remove=True), {}, None),
        (PoolConfig(None), {}, None),
    ],
)
def test_pools_become_what_the_config_says(
    pool: PoolConfig, states: dict[str, PoolState | None], done: tuple[str, Request | None] | None
) -> None:
    found = changes({"p": pool}, states)
    assert [one[1:] for one in found] == ([] if done is None else [done])


def test_a_pool_that_nothing_can_fill_is_told_and_left_as_it_is() -> None:
    pools = {"p": PoolConfig(MORE), "q": PoolConfig(SPEC)}
    why = {"p": "f:3: pools.p.vcpus: No offer fits"}
    made = ("q", "made", PoolRequested(pool="q", spec=SPEC))
    assert changes(pools, {}, why) == [("p", f"not applied: {why['p']}", None), made]
    assert changes(pools, {"p": there()}, why)[0][2] is None
    assert changes({"p": PoolConfig(SPEC)}, {"p": there()}, why) == []  # it is what the config says
    gone = {"p": PoolConfig(MORE, remove=True)}
    assert changes(gone, {"p": there()}, why) == [("p", "removed", ShutdownRequested(cluster_id="p"))]


def test_pools_that_the_config_does_not_name_are_left_alone() -> None:
    assert changes({}, {"p": there(), "q": None}) == []
