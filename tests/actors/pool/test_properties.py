"""A pool with all its actors, whatever happens."""

from hypothesis import settings

from tests.actors.pool.machine import PoolRules

TestPool = PoolRules.TestCase
TestPool.settings = settings(
    max_examples=500, stateful_step_count=50, deadline=None, database=None, derandomize=True
)
