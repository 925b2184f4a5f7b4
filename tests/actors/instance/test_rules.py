"""An instance, whatever it hears and whenever its daemon dies."""

from hypothesis import settings

from tests.actors.instance.machine import InstanceRules

TestInstance = InstanceRules.TestCase
TestInstance.settings = settings(
    max_examples=300, stateful_step_count=60, deadline=None, database=None, derandomize=True
)
