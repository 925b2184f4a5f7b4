"""Groups of environment variables that tasks and set-ups name: their values join at the last border only.

States, effects and events know names of groups and numbers of revisions. The values are asked for when the
word to start goes to the agent, and are part of nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from providers.agent.wire import Bootstrap, BootstrapWithSecrets, Start, StartWithSecrets


class GroupsUnavailable(Exception):
    """A group is gone, not for this pool, or can't be decrypted.

    Attributes:
        why: without a value, and without the word "secrets" before it.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"secrets: {why}")
        self.why = why


@dataclass(frozen=True, slots=True)
class GroupValues:
    """What the groups of one attempt, or set-up, hold: later groups over earlier ones."""

    env: Mapping[str, str] = field(repr=False)
    revisions: Mapping[str, int]


class EnvGroups(Protocol):
    """Who keeps the groups."""

    def values(self, pool: str, task_id: str, attempt: int, groups: Sequence[str]) -> GroupValues:
        """The newest revision of each group; for an attempt that was asked about before, the same as then.

        A set-up is attempt 0 of its run's id.

        Raises:
            GroupsUnavailable: the attempt can't start.
        """
        ...


class NoGroups:
    """Nobody keeps any."""

    def values(self, pool: str, task_id: str, attempt: int, groups: Sequence[str]) -> GroupValues:
        """Never any. Raises GroupsUnavailable."""
        del pool, task_id, attempt
        raise GroupsUnavailable(f"there is no group {groups[0]!r}")


def with_groups(command: Start, over: Mapping[str, str], found: GroupValues) -> StartWithSecrets:
    """The word to start with the groups' values in its environment; what is in `over` counts more."""
    values = {key: value for key, value in found.env.items() if key not in over}
    return StartWithSecrets(
        **command.model_dump(exclude={"env"}),
        env={**command.env, **values},
        secret=tuple(values),
        env_groups=tuple(found.revisions.items()),
    )


def set_up_with_groups(command: Bootstrap, found: GroupValues) -> BootstrapWithSecrets:
    """The word to set a machine up with the groups' values in the steps' environment."""
    return BootstrapWithSecrets(
        **command.model_dump(exclude={"env"}), env={**command.env, **found.env}, secret=tuple(found.env)
    )
