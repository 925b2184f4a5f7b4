"""Groups of secrets join an attempt when its agent is told, or the attempt fails and says why."""

from collections.abc import Sequence
from typing import Any

from actors.acting import Acting
from actors.effects import StartSetUp, StartTask
from actors.env_groups import GroupsUnavailable, GroupValues
from actors.loop import Letter
from actors.messages import AgentReported, AgentSaid
from actors.policy.results import of_ended
from providers.agent.wire import Bootstrap, BootstrapEnded, Ended, Start

SECRET = "hunter2-correct-horse"
START = Start(epoch=1, task="t", attempt=2, argv=("x",), env={"A": "pool", "B": "pool"}, log_bytes_max=1)


class Kept:
    """Implements `EnvGroups`, with one group."""

    def values(self, pool: str, task_id: str, attempt: int, groups: Sequence[str]) -> GroupValues:
        if groups != ("db",):
            raise GroupsUnavailable(f"there is no group {groups[0]!r}")
        assert (pool, task_id, attempt) == ("main", "t", 2)
        return GroupValues({"A": SECRET, "C": SECRET}, {"db": 3})


class Listening:
    """As much of Links and of a Loop as is needed."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.letters: list[Letter] = []
        self.full = False

    def say(self, instance: str, commands: Sequence[Any]) -> None:
        self.said += commands

    def acknowledge(self, instance: str, boot: str, last_id: int) -> None:
        """Nothing."""

    def post_nowait(self, letter: Letter) -> bool:
        if not self.full:
            self.letters.append(letter)
        return not self.full


def acting(there: Any, groups: Any = None) -> Acting:
    made = Acting(
        owner="o",
        epoch=1,
        gateways={},
        links=there,
        keys=there,
        files=there,
        env_groups=groups,
        on_listing=lambda provider, listing: None,
        on_trouble=lambda what, error: None,
    )
    made.loops["main"] = there
    return made


def test_values_go_between_the_pools_and_the_tasks_own() -> None:
    there = Listening()
    word = StartTask("i", (), START.model_copy(update={"env": {"A": "pool", "B": "pool", "C": "own"}}))
    acting(there, Kept()).word("main", StartTask("i", (), word.command, ("db",), {"C": "own"}))
    [said] = there.said
    told = said.model_dump(mode="json")
    assert told["env"] == {"A": SECRET, "B": "pool", "C": "own"}
    assert (told["t"], told["secret"], told["env_groups"]) == ("start", ["A"], [["db", 3]])
    assert SECRET not in repr(GroupValues({"A": SECRET}, {}))


def test_without_groups_nothing_is_different() -> None:
    there = Listening()
    acting(there).word("main", StartTask("i", (), START))
    assert there.said == [START]
    assert "secret" not in there.said[0].model_dump()


def test_a_group_that_is_gone_ends_the_attempt_even_when_the_mailbox_is_full() -> None:
    there = Listening()
    made = acting(there, Kept())
    there.full = True
    made.word("main", StartTask("i", (), START, ("gone",), {}))
    assert there.said == there.letters == []
    there.full = False
    made.word("main", StartTask("i", (), START))
    [letter] = there.letters
    assert letter.address == ("task", "t")
    assert isinstance(letter.message, AgentReported) and isinstance(letter.message.report, Ended)
    report = letter.message.report
    assert report.error == "secrets: there is no group 'gone'"
    verdict = of_ended(report, None)
    assert (verdict.result, verdict.reason, verdict.infrastructure) == ("startup_failure", "secrets", False)


SET_UP = Bootstrap(epoch=1, run_id="bootstrap:i", env={"A": "image", "B": "image"}, steps=())


class KeptForRuns:
    """Implements `EnvGroups`, with one group, for set-ups."""

    def values(self, pool: str, task_id: str, attempt: int, groups: Sequence[str]) -> GroupValues:
        if groups != ("db",):
            raise GroupsUnavailable(f"no group {groups[0]!r} of secrets")
        assert (pool, task_id, attempt) == ("main", SET_UP.run_id, 0)
        return GroupValues({"A": SECRET}, {"db": 3})


def test_values_join_a_set_up_when_its_agent_is_told() -> None:
    there = Listening()
    acting(there, KeptForRuns()).word("main", StartSetUp("i", "boot", SET_UP, ("db",)))
    [said] = there.said
    told = said.model_dump(mode="json")
    assert (told["t"], told["env"], told["secret"]) == ("bootstrap", {"A": SECRET, "B": "image"}, ["A"])


def test_a_group_that_is_gone_fails_the_set_up_as_if_a_step_had() -> None:
    there = Listening()
    acting(there, KeptForRuns()).word("main", StartSetUp("i", "boot", SET_UP, ("gone",)))
    [letter] = there.letters
    assert letter.address == ("instance", "i") and there.said == []
    assert isinstance(letter.message, AgentSaid) and letter.message.boot == "boot"
    assert letter.message.last_id == 0  # nothing of the agent's own is passed over
    [report] = letter.message.reports
    assert isinstance(report, BootstrapEnded) and report.run_id == SET_UP.run_id
    assert (report.phase, report.error) == ("secrets", "no group 'gone' of secrets")


def test_who_keeps_none_says_so() -> None:
    there = Listening()
    acting(there).word("main", StartTask("i", (), START, ("db",), {}))
    assert there.said == [] and len(there.letters) == 1
