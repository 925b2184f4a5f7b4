"""Rules about who writes, and about what is left when all is over."""

from typing import Any

from actors.events import BugCaught, ClusterDestroyed, Error, LeftoverFound
from actors.ports import Commit
from tests.simulation.referee.base import Checker
from tests.simulation.referee.book import Made
from tests.simulation.referee.machines import REPAIR_S
from tests.simulation.referee.times import Ages, Fair


class OnlyTheLeaderWrites(Checker):
    """Whatever becomes durable is written by the life whose epoch is the journal's."""

    name = "an old leader writes nothing"
    events = (object,)

    def event(self, envelope: Any, event: Any) -> None:
        """The newest wrote it."""
        self._look()

    def committed(self, commit: Commit) -> None:
        """The newest wrote it."""
        self._look()

    def _look(self) -> None:
        ledger = self.book.ledger
        if ledger is not None and ledger.writer != ledger.epoch:
            self.fail(f"the life of epoch {ledger.writer} wrote, {ledger.epoch} leads")


class LateCallsAreRepaired(Checker):
    """A machine that an old daemon's call made is an instance's, or gone, one sweep later."""

    name = "late calls are repaired"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._late = Ages(self.book.fair)

    def machine_made(self, made: Made) -> None:
        """Somebody has to see to it."""
        if made.late:
            hidden_s = self.book.visible_within_s(made.provider)
            self._late.start(made.ref, made.provider, REPAIR_S + hidden_s)

    def machine_ended(self, made: Made, reason: str) -> None:
        """It is repaired."""
        self._late.stop(made.ref)

    def tick(self, seconds: float, fair: Fair) -> None:
        """A sweep later."""
        for ref in self._late.over():
            made = self.book.living[str(ref)]
            if self.book.owner(made) is None:
                self.fail(f"{made.ref} of {made.key}, made late, is still there and no instance's", made.key)


class PoolsCloseTheirClusters(Checker):
    """The sweep finds no cluster but what a late call made again: others are closed by their pools."""

    name = "pools close their clusters"
    events = (ClusterDestroyed, Error, LeftoverFound)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._over = set[str]()

    def event(self, envelope: Any, event: Any) -> None:
        """It was closed, or given up before anything can have been made."""
        match event:
            case ClusterDestroyed(cluster_id=name):
                self._over.add(name)
            case Error():
                self._over |= {one.removeprefix("cluster:") for one in envelope.ends}
            case LeftoverFound(leftover="group", cluster_id=name) if name not in self._over:
                self.fail(f"{name} is left behind, and its pool never closed it", name)


class NoBugs(Checker):
    """No rule raises, and no call does what nobody expected."""

    name = "no bugs"
    events = (BugCaught,)

    def event(self, envelope: Any, event: Any) -> None:
        """Unless the test plants them."""
        if not self.book.forgives_bugs:
            self.fail(f"{event!r}", event.address.rsplit("/", 1)[-1])

    def bug(self, text: str) -> None:
        """A rule raised, or a call did."""
        if not self.book.forgives_bugs:
            self.fail(text)


class NothingIsLeft(Checker):
    """At the end no machine and no cluster is left at any cloud, and no state in the journal but markets."""

    name = "nothing is left"

    def left(self) -> list[str]:
        """What is there still."""
        book = self.book
        refs = [*book.living]
        refs += [ref for cloud in book.clouds.values() for ref in cloud.living if ref not in book.living]
        machines = [book.machines[ref] for ref in refs]
        found = [f"machine {one.ref} of {one.key}" for one in machines if one.key not in book.foreign]
        found += [
            f"cluster {name} at {cloud.name}" for cloud in book.clouds.values() for name in cloud.clusters
        ]
        if book.ledger is not None:
            found += [f"{kind} {name} of {pool}" for pool, kind, name in book.ledger.rows if kind != "market"]
        return found

    def at_the_end(self) -> None:
        """Nothing."""
        if left := self.left():
            self.fail(
                f"{len(left)}: {'; '.join(left[:5])}", *(word for one in left[:5] for word in one.split()[1:])
            )
