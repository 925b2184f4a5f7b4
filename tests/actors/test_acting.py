"""What stands between loops, gateways and the market memory, with the real ones of a small cloud."""

from dataclasses import replace

import anyio
import pytest

from actors.effects import RefreshOffers, TellMarket
from actors.loop import Letter
from actors.market.state import MarketState
from actors.messages import Due, LaunchTold, RefusalTold
from actors.ports import Commit
from actors.spec import Nodes, PoolSpec
from controller.recovery import MARKETS
from providers.errors import Fault
from providers.gateway import OFFERS_FRESH_S
from tests.actors.house import POOL, House, house

pytestmark = pytest.mark.anyio
virtual = pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)  # long waits
SPEC = PoolSpec(
    provider=("sim",), zone="sim-a", allocation="spot", nodes=Nodes(desired=1), metrics_every_s=86_400
)


def memory(here: House) -> MarketState | None:
    """What is durable of the pool's market."""
    for (pool, _, name), row in here.ledger.rows.items():
        if pool == MARKETS and "sim-a" in name and name.endswith("spot"):
            assert isinstance(row.state, MarketState)
            return row.state
    return None


def holders(here: House) -> dict[str, int]:
    """Who holds machines there, as is durable."""
    state = memory(here)
    return {} if state is None else state.holders


async def test_a_market_knows_who_holds_machines_there() -> None:
    async with house() as here:
        await here.pool(SPEC)
        await here.until(lambda: holders(here) == {POOL: 1})
        [machine] = here.cloud.living.values()
        here.cloud.preempt(machine, 3600)
        await here.until(lambda: bool(here.facts("instance_replaced")))
        state = memory(here)
        assert state is not None
        assert state.losses == 1


async def test_what_a_daemon_did_not_tell_before_it_died_is_told_by_the_next() -> None:
    async with house() as here:
        await here.pool(SPEC)
        await here.until(lambda: holders(here) == {POOL: 1})
        here.crash()
        state = memory(here)
        assert state is not None
        row = here.ledger.rows[MARKETS, "market", str(state.market)]
        stale = state.model_copy(update={"holders": {"gone-pool": 1}})
        here.ledger.write(Commit(MARKETS, [replace(row, state=stale)]))
        await here.start()
        await here.until(lambda: holders(here) == {POOL: 1})


@virtual
async def test_a_pool_has_one_word_of_changed_markets_waiting_at_most() -> None:
    async with house() as here:
        await here.pool(SPEC)
        loop = here.daemon.loops[POOL]
        await anyio.sleep(1)
        for _ in range(2):
            loop.post_nowait(Letter(("pool", POOL), Due()))  # the loop, which waits, gets it at once
            for _ in range(5):
                loop.markets_changed()
            assert loop.waiting == 1
            await anyio.sleep(1)
            assert loop.waiting == 0


@virtual
async def test_rules_see_when_offers_were_told_though_they_are_as_before() -> None:
    async with house() as here:
        await here.pool(SPEC)
        acting = here.daemon.acting
        before = acting.world().offers_at["sim"]
        await anyio.sleep(OFFERS_FRESH_S + 1)
        acting.word(POOL, RefreshOffers("sim"))
        acting.word(POOL, RefreshOffers("not in the config"))
        await anyio.sleep(1)
        assert acting.world().offers_at["sim"] > before + OFFERS_FRESH_S
        assert set(acting.world().offers_at) == set(acting.world().offers) == {"sim"}


@virtual
async def test_news_of_a_market_reach_a_pool_that_waits_for_it() -> None:
    async with house() as here:
        await here.pool(SPEC)
        await here.until(lambda: memory(here) is not None)
        state = memory(here)
        assert state is not None
        acting, market = here.daemon.acting, state.market
        acting.word(POOL, TellMarket(RefusalTold(market, Fault.QUOTA, None, "ask for more")))
        await here.until(lambda: acting.world().markets[str(market)].cool_until > 0)
        [machine] = here.cloud.living.values()
        here.cloud.preempt(machine, 0)
        await here.until(lambda: bool(here.facts("instance_destroyed")))
        await anyio.sleep(60)
        assert len(here.facts("instance_launched")) == 1, "it cools down for long"
        acting.word(POOL, TellMarket(LaunchTold(market, 1)))  # another pool was luckier
        await here.until(lambda: len(here.facts("instance_launched")) == 2)
