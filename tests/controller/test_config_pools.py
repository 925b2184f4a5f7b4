"""Pools that contradict themselves, or that nothing can ever fill: refused, key by key."""

from typing import Any

import pytest
from pydantic import ValidationError

from actors.decision import World
from actors.spec import PoolSpec
from controller.config import ConfigError, check, parse
from controller.config_pools import contradictions, fixed_offers, unfillable
from controller.funnel import Sieve
from providers.aws.config import AwsConfig
from providers.container.config import ContainerConfig
from providers.local.config import LocalConfig
from providers.simulated.config import SimulatedConfig, SimulatedOffer
from providers.simulated.series import Walk


def spec(**keys: Any) -> PoolSpec:
    return PoolSpec.model_validate({"provider": "local", "nodes": 4} | keys)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"on_demand": {"floor": 5}}, "on_demand.floor: 5 nodes on demand, and nodes.desired is 4"),
        (
            {"nodes": [4, 6], "on_demand": {"floor": 7}},
            "on_demand.floor: 7 nodes on demand, and nodes.max is 6",
        ),
        (
            {"on_demand": {"share": 0.6, "ceiling": 2}},
            "on_demand.share: 0.6 of 4 nodes is 3, and ceiling is 2",
        ),
        (
            {"nodes": 20_000, "buying": {"spares": 1}},
            "buying.spares: 1 beyond 20000 nodes: a pool has 20000 machines at most",
        ),
        ({"allocation": "spot", "on_demand": {"ceiling": 2}}, "on_demand.ceiling: allocation is 'spot'"),
        (
            {"allocation": "on-demand", "on_demand": {"ceiling": 2}},
            "on_demand.ceiling: allocation is 'on-demand'",
        ),
        (
            {"buying": {"policy": "on-demand"}, "on_demand": {"ceiling": 2}},
            "on_demand.ceiling: policy is 'on-demand'",
        ),
        ({"allocation": "spot", "buying": {"policy": "on-demand"}}, "buying.policy: policy 'on-demand' buys"),
        ({"allocation": "spot", "buying": {"patience_s": 60}}, "buying.patience_s: nothing is covered on"),
        (
            {"allocation": "spot", "alternatives": [{}, {"lifecycle": "on_demand"}]},
            "alternatives[1].lifecycle: can't be 'on_demand'",
        ),
        (
            {"allocation": "on-demand", "alternatives": [{"lifecycle": "spot"}]},
            "alternatives[0].lifecycle: can't be 'spot'",
        ),
        (
            {"zone": "local-a", "spread": "zones"},
            "spread: 'zones' needs more than one, and zone is 'local-a'",
        ),
        (
            {"alternatives": [{"provider": ["locla"]}]},
            "alternatives[0].provider: the pool's provider does not name 'locla', but local; "
            "did you mean 'local'?",
        ),
        (
            {"region": "local", "alternatives": [{"region": ["us-*"]}]},
            "alternatives[0].region: the pool's region is 'local', which is none of us-*",
        ),
        ({"region": ""}, "region: a name of 0 characters: give 1 to 256"),
        ({"zone": "z" * 257}, "zone: a name of 257 characters: give 1 to 256"),
        ({"instance_type": "m5\x1b[31m"}, "instance_type: has characters that can't be printed"),
        ({"accelerator": {"name": "H\n100"}}, "accelerator.name: has characters that can't be printed"),
        (
            {"alternatives": [{"region": ["eu-*"]}, {"region": ["us-*", "\u202e"]}]},
            "alternatives[1].region: has characters that can't be printed",
        ),
        ({"accelerator": {"name": "H100", "count": 0}}, "accelerator.count: has to be more than 0"),
        ({"accelerator": {"name": "H100:x", "count": 1}}, "accelerator.name: 'H100:x' is no name"),
        ({"buying": {"extra": 3}}, "buying.extra: is for the policy 'spothedge', and policy is 'hazard'"),
        (
            {"buying": {"policy": "karpenter", "missing_node_hour_usd": 5}},
            "buying.missing_node_hour_usd: is for the policy 'hazard', and policy is 'karpenter'",
        ),
        (
            {"buying": {"policy": "round-robin", "spares": "auto"}},
            "buying.spares: only the policy 'hazard' finds out how many",
        ),
        ({"buying": {"policy": "spothedge", "spares": 1}}, "buying.spares: the policy 'spothedge' has"),
        (
            {"buying": {"availability": 0.99, "missing_node_hour": 5}},
            "buying.missing_node_hour: availability finds out by itself",
        ),
        (
            {"buying": {"availability": 0.99, "missing_node_hour_usd": 5}},
            "buying.missing_node_hour_usd: availability finds out by itself",
        ),
    ],
)
def test_what_contradicts_itself(keys: dict[str, Any], said: str) -> None:
    [found] = contradictions(spec(**keys))
    assert str(found).startswith(said)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"scaling": {}, "nodes": {"desired": 0, "min": 0, "max": 8}},
        {"nodes": {"desired": 0}, "on_demand": {"floor": 1}},
        {"allocation": "spot", "on_demand": {"floor": 2}},
        {"allocation": "spot", "on_demand": {"floor": 2}, "alternatives": [{"lifecycle": "on_demand"}]},
        {"buying": {"policy": "spothedge", "extra": 3}},
        {"buying": {"availability": 0.99}},
        {"alternatives": [{"provider": ["loc*"], "zone": ["local-?"], "price_factor": 2}]},
        {"on_demand": {"share": 0.5, "ceiling": 2}},
    ],
)
def test_what_is_sound(keys: dict[str, Any]) -> None:
    assert contradictions(spec(**keys)) == ()


@pytest.mark.parametrize("nodes", [True, {"desired": True}, [1, True]])
def test_true_is_no_number_of_nodes(nodes: Any) -> None:
    with pytest.raises(ValidationError):
        spec(nodes=nodes)


def test_scaling_needs_a_most() -> None:
    text = "[pools.a]\nprovider = 'local'\nscaling = {}"
    assert check(text, "f") == [
        "f:3: pools.a.scaling: scaling needs nodes.max: how many nodes the pool may grow to"
    ]


def test_all_of_it_is_said_with_its_lines_and_the_nearest_names() -> None:
    text = """\
[pools.a]
provider = "local"
[pools.a.on_demand]
floor = 3
[pools.b]
provider = "local"
[pools.b.buying]
policy = "hazrd"
spares = "autom"
missing_node_huor = 3
[pools.b.scaling]
idle_timeout = 3
[pools.c]
provider = "local"
[pools.c.budget]
then = "drian"
[[pools.c.alternatives]]
regions = ["x"]
[[pools.c.alternatives]]
lifecycle = "on-demand"
"""
    policies = (
        "'hazard', 'sticky-race', 'karpenter', 'spothedge', 'eager-next-region', 'round-robin', "
        "'even-spread' or 'on-demand'"
    )
    assert check(text, "f") == [
        "f:4: pools.a.on_demand.floor: 3 nodes on demand, and nodes.desired is 1",
        f"f:8: pools.b.buying.policy: should be {policies}; did you mean 'hazard'?",
        "f:9: pools.b.buying.spares: should be a valid integer, unable to parse string as an integer, "
        "or should be 'auto'",
        "f:10: key 'pools.b.buying.missing_node_huor' is not known; did you mean 'missing_node_hour'?",
        "f:12: key 'pools.b.scaling.idle_timeout' is not known; did you mean 'idle_timeout_s'?",
        "f:16: pools.c.budget.then: should be 'warn', 'stop-launching' or 'drain'; did you mean 'drain'?",
        "f:18: key 'pools.c.alternatives[0].regions' is not known; did you mean 'region'?",
        "f:20: pools.c.alternatives[1].lifecycle: should be 'spot' or 'on_demand'; did you mean 'on_demand'?",
    ]


def test_a_pool_that_nothing_can_fill_is_told_by_check_and_the_others_stay() -> None:
    text = """\
[providers.cloud]
type = "simulated"
[[providers.cloud.offers]]
vcpus = 4
spot = 0.1
[pools.big]
provider = ["local", "cloud"]
nodes = 3
vcpus = 64
[pools.well]
provider = "cloud"
[pools.cheap]
provider = "cloud"
max_hourly_cost = 0.01
[providers.local]
type = "local"
"""
    assert check(text, "f") == [
        "f:9: pools.big.vcpus: No offer fits: of 7 offers of local, cloud, vcpus (64) removed all of them "
        "(has 2 vcpus, has 4 vcpus).",
        "f:14: pools.cheap.max_hourly_cost: No offer fits: of 1 offer of cloud, "
        "max_hourly_cost (0.01) removed it (costs 0.1 dollars an hour).",
    ]
    config = parse(text, "f")  # the daemon runs with it, and makes the other
    assert sorted(config.unfillable) == ["big", "cheap"]
    assert sorted(config.pools) == ["big", "cheap", "well"]
    with pytest.raises(ConfigError) as wrong:
        parse(text + "[deamon]", "f")
    assert len(wrong.value.problems) == 3


def test_the_filter_that_removed_the_last_is_told_after_the_others() -> None:
    wanted = spec(allocation="spot", zone="local-b", memory_gb=8)
    found = unfillable(wanted, {"local": LocalConfig()})
    assert found is not None
    assert found.location == ("memory_gb",)
    assert found.text == (
        "No offer fits: of 6 offers of local, allocation removed 3, zone removed 2, "
        "memory_gb (8) removed the last 1 (has 4 GB memory)."
    )


def test_what_can_not_be_known_is_not_refused() -> None:
    aws = AwsConfig()
    wanted = spec(provider=["local", "aws"], vcpus=64)
    assert unfillable(wanted, {"local": LocalConfig(), "aws": aws}) is None
    assert unfillable(wanted, {"local": LocalConfig()}) is None  # said elsewhere: there is no such provider
    assert fixed_offers("aws", aws) is None
    walk = Walk(least=0, most=1, every_s=60, step=0.1)
    moving = SimulatedConfig(offers=(SimulatedOffer(spot=walk),))
    cheap = spec(max_hourly_cost=0.01)
    assert unfillable(cheap, {"local": moving}) is None
    steady = SimulatedConfig(offers=(SimulatedOffer(spot=1),))
    assert unfillable(cheap, {"local": steady}) is not None


def test_offers_of_containers_are_known_without_an_engine() -> None:
    found = fixed_offers("boxes", ContainerConfig())
    assert found is not None
    assert [(one.provider, one.lifecycle) for one in found] == [("boxes", "on_demand")]
    wrong = unfillable(spec(provider="boxes", allocation="spot"), {"boxes": ContainerConfig()})
    assert wrong is not None and wrong.location == ("allocation",)


TWO_ZONES = LocalConfig.model_validate(
    {
        "offers": [
            {"zone": "local-a", "spot": 2.0, "on_demand": 6.0},
            {"zone": "local-b", "spot": 2.2, "on_demand": 6.0},
        ]
    }
)


@pytest.mark.parametrize(
    ("keys", "location", "said"),
    [
        (
            {
                "max_hourly_cost": 4,
                "on_demand": {"floor": 1},
                "alternatives": [{"zone": ["local-b"], "lifecycle": "spot"}],
            },
            ("on_demand", "floor"),
            "No on-demand offer fits, and on_demand.floor wants 1 node of them: of 2 on-demand offers of "
            "local, max_hourly_cost (4) removed all of them (costs 6 dollars an hour).",
        ),
        (
            {"alternatives": [{"lifecycle": "spot"}], "on_demand": {"share": 0.5}},
            ("on_demand", "share"),
            "No on-demand offer fits, and on_demand.share wants 2 nodes of them: of 2 on-demand offers of "
            "local, alternatives removed all of them (is none of the alternatives).",
        ),
        (
            {"alternatives": [{"lifecycle": "on_demand"}], "on_demand": {"ceiling": 1}},
            ("on_demand", "ceiling"),
            "No spot offer fits, and on_demand.ceiling leaves 3 nodes to them: of 2 spot offers of "
            "local, alternatives removed all of them (is none of the alternatives).",
        ),
    ],
)
def test_what_has_to_be_bought_in_one_way_must_be_sold_so(
    keys: dict[str, Any], location: tuple[str, ...], said: str
) -> None:
    found = unfillable(spec(**keys), {"local": TWO_ZONES})
    assert found is not None
    assert (found.location, found.text) == (location, said)
    sound = keys | {"on_demand": {}}
    assert unfillable(spec(**sound), {"local": TWO_ZONES}) is None


def test_a_spot_price_that_moves_may_do_tomorrow() -> None:
    keys = {"max_hourly_cost": 1, "on_demand": {"ceiling": 1}}
    world = World(offers={"local": fixed_offers("local", TWO_ZONES) or ()})
    assert Sieve.of(spec(**keys), world).refusal() is None
    lack = Sieve.of(spec(**keys | {"on_demand": {"floor": 4}}), world).refusal()
    assert lack is not None and lack.location == ("on_demand", "floor")


def test_a_budget_that_lets_no_machine_be_launched() -> None:
    keys: dict[str, Any] = {"allocation": "on-demand", "budget": {"per_day": 0.1}}
    found = unfillable(spec(**keys), {"local": TWO_ZONES})
    assert found is not None and found.location == ("budget", "per_day")
    assert found.text == (
        "a machine at $6.00 an hour needs $0.88 set aside, for its set-up and its end, "
        "and the budget is $0.10 a day."
    )
    for budget in ({"per_day": 0.1, "then": "warn"}, {"per_day": 0.9}, {}):
        assert unfillable(spec(**keys | {"budget": budget}), {"local": TWO_ZONES}) is None
    never = spec(**keys | {"budget": {"total": 0.1, "then": "stop-launching"}})
    assert unfillable(never, {"local": TWO_ZONES}) is not None
