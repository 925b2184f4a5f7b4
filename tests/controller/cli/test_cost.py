"""`everpool cost` against a daemon."""

import json

import pytest

from controller.cli.codes import NOT_FOUND
from tests.controller.cli.running import Face

pytestmark = pytest.mark.real


def test_costs_of_a_daemon(house: Face) -> None:
    assert house("run", "web", "--", "true").code == 0
    told = house("cost")
    assert told.code == 0, told.err
    assert told.out.splitlines()[0].split()[:3] == ["POOL", "STATUS", "USD/H"]
    assert told.out.splitlines()[1].split()[0] == "web"
    one = json.loads(house("cost", "web", "--json").out)
    assert (one["pool"], one["tasks"]["ended"]) == ("web", 1)
    assert 0 <= one["tasks"]["usd"] < one["total_usd"] == one["today_usd"] < 0.1
    text = house("cost", "web").out
    assert text.startswith("web is ")
    assert "by day (UTC)" in text


def test_the_cost_of_a_pool_that_is_not_there(house: Face) -> None:
    told = house("cost", "wbe")
    assert told.code == NOT_FOUND
    assert "did you mean web?" in told.err
