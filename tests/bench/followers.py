"""`python -m tests.bench.followers`: a hundred followers over a kill -9 of the daemon; none misses any.

A daemon in a process of its own takes submits, is killed without a word in the middle, and is started again,
while submits go on and followers (half of all events, half of one pool) hold on by themselves. In the end
what each has seen is compared with what the journal has.
"""

import argparse
import sqlite3
import sys
import time
from contextlib import aclosing, closing
from dataclasses import dataclass

import anyio
from anyio import to_thread

from actors.events import TaskRequested
from actors.spec import TaskSpec
from controller.client import AsyncClient, EverpoolError
from tests.bench.house import House, house

POOL, LAST = "bench", "the-last"
WITHIN_S = 240.0


@dataclass(slots=True)
class Outcome:
    """What was seen. `wrong`: followers whose seqs are not those of the journal."""

    followers: int
    events: int
    wrong: int
    repeated_submits: int
    seconds: float


async def _submit(home: House, count: int, half: anyio.Event) -> int:
    """Submit for as long as it takes, each until it is taken; how many had to be sent again."""
    again = 0
    async with AsyncClient(home.socket) as client:
        for number in range(count):
            request_id = LAST if number == count - 1 else f"task-{number}"
            task = TaskRequested(request_id=request_id, pool=POOL, task=TaskSpec(argv=("/bin/true",)))
            while True:
                try:
                    await client.submit(task)
                    break
                except EverpoolError:  # the daemon is away
                    again += 1
                    await anyio.sleep(0.05)
            if number == count // 2:
                half.set()
    return again


async def _follow(home: House, seen: list[int], pool: str | None) -> None:
    async with AsyncClient(home.socket) as client, aclosing(client.follow(0, pool=pool)) as events:
        async for envelope in events:
            seen.append(envelope.seq)
            if envelope.event.kind == "task_queued" and envelope.request_id == LAST:
                return


async def run(home: House, followers: int, submits: int) -> Outcome:
    """Follow, submit, kill, start again; raises TimeoutError."""
    began = time.monotonic()
    seen: list[list[int]] = [[] for _ in range(followers)]
    half, again = anyio.Event(), 0

    async def submit() -> None:
        nonlocal again
        again = await _submit(home, submits, half)

    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as group:
            for number, seqs in enumerate(seen):
                group.start_soon(_follow, home, seqs, POOL if number % 2 else None)
            group.start_soon(submit)
            await half.wait()
            await to_thread.run_sync(home.kill)
            await to_thread.run_sync(home.start)
    wanted = (journaled(home, None), journaled(home, POOL))
    wrong = 0
    for number, seqs in enumerate(seen):
        due = [seq for seq in wanted[number % 2] if seq <= seqs[-1]]
        wrong += seqs != due
    return Outcome(followers, len(wanted[0]), wrong, again, time.monotonic() - began)


def journaled(home: House, pool: str | None) -> list[int]:
    """The seqs in the journal's file."""
    with closing(sqlite3.connect(f"file:{home.state}/journal.sqlite3?mode=ro", uri=True)) as journal:
        query = "SELECT seq FROM events WHERE ? IS NULL OR pool = ? ORDER BY seq"
        return [seq for (seq,) in journal.execute(query, (pool, pool))]


def main() -> int:
    """Measure; 1 when a follower missed something."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.followers", description=__doc__)
    parser.add_argument("--followers", type=int, default=100)
    parser.add_argument("--submits", type=int, default=2_000)
    options = parser.parse_args()
    with house("") as home:
        home.make_pool(POOL, 0, provider="local")
        outcome = anyio.run(run, home, options.followers, options.submits)
    sys.stdout.write(
        f"{outcome.followers} followers of {outcome.events} events, kill -9 and start in between: "
        f"{outcome.wrong} with a gap or a double; {outcome.repeated_submits} submits sent again; "
        f"{outcome.seconds:.1f} s\n"
    )
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
