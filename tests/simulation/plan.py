"""What will happen in a world and when: a list of acts, each with randomness of its own.

Acts are drawn day by day, so the plan of fewer days is the beginning of the plan of more; and leaving an act
out changes nothing in the others. Both are what `--shrink` needs.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from providers.simulated.config import Faults

DAY_S = 86_400.0
TEMPERS = (
    0.0,
    0.5,
    1.0,
    1.0,
    2.0,
)  # how often one kind of misfortune comes in one world: some worlds lack it


@dataclass(frozen=True, slots=True)
class Users:
    """How often users do something, on average, in a virtual day."""

    task: float = 34
    burst: float = 3
    resize: float = 5.5  # and some of them again soon after
    drain: float = 3
    drain_noticed: float = 2  # of a machine that gets a notice at the same time
    stop_task: float = 6
    update: float = 2
    set_up: float = 2
    repeat: float = 6  # a request sent again
    remake: float = 1.5
    reload: float = 3
    pause: float = 2  # and most of them resumed within hours
    respec: float = 1.5  # machines are to be of another image or shape; some can't be set up


@dataclass(frozen=True, slots=True)
class Misfortunes:
    """How often something goes wrong, on average, in a virtual day. Each world has its own tempers."""

    crash: float = 3
    crash_commit: float = 3  # before or after it
    crash_call: float = 3  # before or after a provider's call takes effect
    crash_late: float = 2  # calls of the dead daemon still arrive
    full_disk: float = 3
    usurp: float = 1.5  # a second daemon leads, and the first does not know yet
    upgrade: float = 1.5  # a daemon with a newer agent
    clock_jump: float = 1.5  # at a restart
    set_clock: float = 1.0  # while the daemon lives
    stranger: float = 1.5
    storm: float = 0.7  # many machines are taken back at once
    taken: float = 2
    false_notice: float = 3
    repeat_notice: float = 1.5
    misdirect_notice: float = 1.5
    silence: float = 4
    isolate: float = 1
    unlist: float = 2
    outbid: float = 3
    kill_agent: float = 3
    darken: float = 0.7
    lock_out: float = 0.5
    throttle: float = 0.7
    cut_streams: float = 1.5


@dataclass(frozen=True, slots=True)
class Habits:
    """How a world is: its pools, what users do, what goes wrong."""

    pools: int = 2  # made by users; the config has more
    last_words: int = 8  # rounds of requests that come while the pools are shut down
    users: Users = Users()
    misfortunes: Misfortunes = Misfortunes()


USERS = tuple(field.name for field in fields(Users))
MISFORTUNES = tuple(field.name for field in fields(Misfortunes))
SHARES = (
    *Faults.model_fields,
    "preemptions",
)  # faults of the clouds that come as shares of calls, or by the hour
LAST = ("pause", "respec")  # drawn last, so that the acts that were there before it keep their indices
KINDS = (*USERS, *MISFORTUNES, *SHARES)


@dataclass(frozen=True, slots=True, order=True)
class Act:
    """One thing that will happen."""

    at: float  # virtual seconds since the beginning
    index: int  # its place in the plan; names it for ever
    kind: str

    def dice(self, seed: int) -> random.Random:
        """What is random about it."""
        return random.Random(f"{seed}/{self.index}")


@dataclass(frozen=True, slots=True)
class Case:
    """One run: a seed, how long, and what of its plan is left out."""

    seed: int
    days: float = 1.0
    without: frozenset[str] = frozenset()  # kinds
    keep: frozenset[int] | None = None  # indices of acts; None: all

    @property
    def options(self) -> str:
        """The options of the command line that run it."""
        words = [f"--seed {self.seed} --days {self.days:g}"]
        if self.without:
            words.append(f"--without {','.join(sorted(self.without))}")
        if self.keep is not None:
            words.append(f"--keep {shown(self.keep)}")
        return " ".join(words)


def plan_of(case: Case, habits: Habits) -> list[Act]:
    """Every act of a case, in the order of their times."""
    seed, acts, index = case.seed, list[Act](), 0
    rates = [(kind, getattr(habits.users, kind)) for kind in USERS]
    for kind in MISFORTUNES:
        temper = random.Random(f"{seed}/temper/{kind}").choice(TEMPERS)
        rates.append((kind, getattr(habits.misfortunes, kind) * temper))
    rates.sort(key=lambda rate: rate[0] in LAST)
    day = 0
    while day < case.days:
        for kind, rate in rates:
            dice = random.Random(f"{seed}/{day}/{kind}")
            for _ in range(int(rate + dice.random())):
                acts.append(Act(round((day + dice.random()) * DAY_S, 3), index, kind))
                index += 1
        day += 1
    return sorted(
        act
        for act in acts
        if act.at < case.days * DAY_S
        and act.kind not in case.without
        and (case.keep is None or act.index in case.keep)
    )


def shown(numbers: Iterable[int]) -> str:
    """Numbers as a short list: "3,17,40-44"."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs) or "none"


def numbers_of(text: str) -> frozenset[int]:
    """Read what `shown` wrote. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(",") if text != "none" else ():
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def kinds_of(names: Sequence[str]) -> frozenset[str]:
    """Check names of kinds. Raises ValueError that says which there are."""
    unknown = sorted(set(names) - set(KINDS))
    if unknown:
        raise ValueError(f"no kind {', '.join(unknown)}: there are {', '.join(KINDS)}")
    return frozenset(names)
