"""A hundred followers of a real daemon that is killed and started again while submits go on."""

import anyio
import pytest

from tests.bench.followers import POOL, run
from tests.bench.house import house

pytestmark = pytest.mark.real


@pytest.mark.timeout(300)
def test_a_hundred_followers_miss_nothing_over_a_kill() -> None:
    with house("") as home:
        home.make_pool(POOL, 0, provider="local")
        outcome = anyio.run(run, home, 100, 300)
    assert outcome.events >= 600
    assert outcome.wrong == 0
    assert outcome.repeated_submits > 0, "the daemon was never away"
