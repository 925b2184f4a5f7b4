"""`everpool demo`: the whole job on this machine, told as it happens, and checked."""

import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.events import (
    ClusterDestroyed,
    InstanceBootstrapped,
    InstanceLaunched,
    InstancePreempted,
    InstanceProvisioned,
    InstanceReplaced,
    InstanceRequested,
    PoolReady,
    PoolRequested,
    ShutdownRequested,
    TaskAttemptEnded,
    TaskRequested,
    TaskStarted,
)
from actors.spec import Image, Nodes, PoolSpec, Step, TaskSpec, Worker
from controller.cli.codes import FAILED, OK, CliError
from controller.cli.command import Session, command
from controller.cli.house import DemoFailed, House, banner
from controller.cli.story import Story, check_gone, check_logs, check_machines, check_marks, check_tasks
from controller.client import EverpoolError

POOL = "demo"
NODES = 3
NOTICE_S, TAKEN_S = 6.0, 4.0  # what the notice says, and what becomes of it: clouds are in a hurry too
LONG_LINES, SHORT_LINES, PAUSE_S = 60, 30, 0.1
SHOWN = (
    "everpool_launches_total",
    "everpool_preemptions_total",
    "everpool_time_to_ready_seconds_count",
    "everpool_tasks_completed_total",
)
# What a task does: holds a lock while it lives, so that a twin would be seen, and prints numbered lines.
TASK = """
import fcntl, sys, time
marks = open(sys.argv[1], "a")
try:
    fcntl.flock(marks, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    marks.write("twice\\n")
    sys.exit(99)
marks.write("start\\n")
marks.flush()
for number in range(1, int(sys.argv[2]) + 1):
    print(f"line {number} of {sys.argv[2]}", flush=True)
    time.sleep(float(sys.argv[3]))
marks.write("stop\\n")
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app)(demo)


def demo(
    session: Session,
    keep: Annotated[bool, typer.Option("--keep", help="Leave its directory, with the daemon's log.")] = False,
) -> int:
    """Show the whole job on this machine, within a minute.

    That is machines, tasks, a preemption, kill -9 of the daemon, and its recovery.

    Everything happens in a temporary directory, and nothing of it is left.
    """
    if sys.platform != "linux":
        raise CliError(FAILED, f"the daemon runs on Linux, and this is {sys.platform}")
    began = time.monotonic()
    lines: list[dict[str, Any]] = []

    def say(text: str) -> None:
        elapsed = time.monotonic() - began
        lines.append({"at_s": round(elapsed, 3), "text": text})
        if session.json:
            session.say(f"{elapsed:5.1f} s  {text}")
        else:
            session.show(None, f"{elapsed:5.1f} s  {text}")
            sys.stdout.flush()

    root = Path(tempfile.mkdtemp(prefix="everpool-demo-"))
    problem = ""
    house = House(root)
    try:
        Demo(house, say).play()
    except DemoFailed as error:
        problem = str(error)
    except EverpoolError as error:
        problem = f"the daemon answered: {error}"
    finally:
        house.raze()
        if problem:
            session.say(f"everpool: the demo failed: {problem}")
            session.say(f"The daemon's last words: {house.last_words()}")
        if keep:
            session.say(f"Everything is still in {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    took = time.monotonic() - began
    if session.json:
        session.show({"ok": not problem, "error": problem or None, "seconds": round(took, 3), "steps": lines})
    if not problem:
        say(f"All of it held, in {took:.1f} s.")
    return FAILED if problem else OK


class Demo:
    """The steps, in order. Each raises DemoFailed when what it shows is not so."""

    def __init__(self, house: House, say: Callable[[str], None]) -> None:
        self.house = house
        self.say = say
        self.story = Story(house, say)
        self.marks = house.root / "marks"

    def play(self) -> None:
        """All steps."""
        took = self.house.start()
        self.say(f"The daemon runs (pid {self._pid}), ready after {took:.1f} s.")
        self.pool_comes_up()
        tasks = self.submit(9, LONG_LINES)
        self.logs_are_followed(tasks)
        noticed, killed = self.victims()
        self.notice_and_kill(noticed, killed)
        self.interrupted_tasks_finish(tasks)
        self.metrics_are_scraped()
        self.daemon_dies_and_returns()
        self.everything_fits()
        self.nothing_is_left()

    @property
    def _pid(self) -> int:
        return self.house.daemon.pid if self.house.daemon is not None else 0

    # --- a pool, and tasks on it

    def pool_comes_up(self) -> None:
        """Three nodes, each a machine with a real ssh server, set up by a step."""
        step = Step(phase="greet", run="echo set up by everpool > ~/greeting && cat ~/greeting")
        spec = PoolSpec(
            provider=("local",),
            nodes=Nodes(desired=NODES),
            worker=Worker(concurrency=2),
            image=Image(steps=(step,)),
        )
        self.say(f"A pool of {NODES} nodes is asked for: everpool up {POOL} --nodes {NODES} --slots 2")
        asked = time.time()
        self.house.client.submit(PoolRequested(pool=POOL, spec=spec))
        self.story.until("the pool is ready", 40, lambda: self.story.first(PoolReady))
        for one in sorted(self.house.client.instances(POOL), key=lambda view: int(view["node"])):
            name, host, port = str(one["id"]), str(one["address"]), int(one["port"])
            times = [
                f"{word} {self._since(asked, kind, name):.1f} s"
                for word, kind in (
                    ("launched", InstanceLaunched),
                    ("connected", InstanceProvisioned),
                    ("set up", InstanceBootstrapped),
                )
            ]
            said = banner(host, port)
            if not said.startswith("SSH-2.0"):
                raise DemoFailed(f"{host}:{port} is no ssh server, it says {said!r}")
            self.say(f"  node {one['node']}: {name} at {host}:{port} ({said}): {', '.join(times)}")

    def _since(self, start: float, kind: Any, instance: str) -> float:
        for at, fact in self.story.facts(kind):
            name = fact.instance_id if isinstance(fact, InstanceLaunched) else fact.instance.instance.id
            if name == instance:
                return at - start
        raise DemoFailed(f"no {kind.__name__} of {instance}")

    def submit(self, count: int, lines: int) -> list[str]:
        """Ask for tasks that print numbered lines."""
        self.marks.mkdir(exist_ok=True)
        first = len(self.story.tasks) + 1
        requests = []
        for number in range(first, first + count):
            name = f"task-{number}"
            argv = (sys.executable, "-I", "-S", "-c", TASK, str(self.marks / name), str(lines), str(PAUSE_S))
            notice = f'echo "$EVERPOOL_NOTICE_SECONDS" > {self.marks}/{name}.notice'
            task = TaskSpec(name=name, argv=argv, on_notice=notice)
            requests.append(TaskRequested(request_id=name, pool=POOL, task=task))
        for answer in self.house.client.submit(requests):
            if not answer.taken:
                raise DemoFailed(f"task {answer.request_id} was not taken: {answer.error}")
        names = [request.request_id for request in requests]
        self.story.tasks |= dict.fromkeys(names, lines)
        self.say(f"{count} tasks are queued ({names[0]} to {names[-1]}); 2 run at once on each node.")
        return names

    def logs_are_followed(self, tasks: list[str]) -> None:
        """See lines of a running task as they come."""
        wanted = min(2 * NODES, len(tasks))
        self.story.until("tasks run", 30, lambda: len(self.story.facts(TaskStarted)) >= wanted)
        running = self.story.facts(TaskStarted)[-1][1].task_id
        self.say(f"Following a log: everpool logs {running} --follow")
        with closing(self.house.client.task_log(running, follow=True)) as lines:
            for line, _ in zip(lines, range(3), strict=False):
                self.say(f"  {running} | {line.text}")

    # --- machines are taken

    def victims(self) -> tuple[int, int]:
        """Two nodes with running tasks."""
        nodes = [int(one["node"]) for one in self.house.client.instances(POOL) if one["tasks"]]
        if len(nodes) < 2:
            raise DemoFailed(f"tasks run on nodes {nodes} only")
        return sorted(nodes)[-2], sorted(nodes)[-1]

    def instance(self, node: int) -> str:
        """The instance that fills a node."""
        views = self.house.client.nodes(POOL)
        return next(str(one["instance_id"]) for one in views if one["node"] == node)

    def notice_and_kill(self, noticed: int, killed: int) -> None:
        """One node is taken with notice, one without; both are replaced under their rank."""
        first, second = self.instance(noticed), self.instance(killed)
        noticed_at = time.time()
        self.house.give_notice(first, NOTICE_S)
        self.say(f"Node {noticed}, {first}: preemption notice, it will be taken in {NOTICE_S:g} s.")
        self.story.until("the notice is heard", 10, lambda: self._preempted(first))
        self.house.kill_machine(second)
        killed_at = time.time()
        self.say(f"Node {killed}, {second}: its parent process is killed with kill -9, without a word.")
        at_once = self._preempted(first)
        while time.time() < noticed_at + TAKEN_S:
            self.story.listen()
            time.sleep(0.05)
        if self.house.kill_machine(first):
            self.say(
                f"Node {noticed}, {first}: taken after {TAKEN_S:g} s, its parent is killed with kill -9."
            )
        else:
            self.say(f"Node {noticed}, {first}: was empty, and given back before it was taken.")
        if at_once is None:
            raise DemoFailed(f"no InstancePreempted of {first}")
        self._replaced(noticed, first, noticed_at, "notice")
        self._replaced(killed, second, killed_at, "kill")

    def _preempted(self, instance: str) -> tuple[float, InstancePreempted] | None:
        return self.story.first(InstancePreempted, lambda fact: fact.instance.instance.id == instance)

    def _replaced(self, node: int, old: str, since: float, word: str) -> None:
        at, fact = self.story.until(
            f"{old} is replaced", 40, lambda: self.story.first(InstanceReplaced, lambda it: it.old_id == old)
        )
        new = fact.new.instance.id
        if fact.new.node != node or new == old:
            raise DemoFailed(f"{old} of node {node} was replaced by {new} of node {fact.new.node}")
        heard = self._preempted(old)
        asked = self.story.first(InstanceRequested, lambda it: it.replacing == old)
        launched = self.story.first(InstanceLaunched, lambda it: it.instance_id == new)
        if heard is None or asked is None or launched is None:
            raise DemoFailed(f"{new} replaced {old} without having been asked for or launched")
        self.say(
            f"Node {node}: {old} -> {new}, the same rank. From the {word}: heard {heard[0] - since:.2f} s, "
            f"launch call made {asked[0] - since:.2f} s, accepted {launched[0] - since:.2f} s, "
            f"ready {at - since:.2f} s."
        )

    def interrupted_tasks_finish(self, tasks: list[str]) -> None:
        """What was interrupted runs again, on the replacements or wherever there is room."""
        self.story.until("the tasks finish", 60, lambda: set(tasks) <= set(self.story.completed()))
        interrupted = [
            fact for _, fact in self.story.facts(TaskAttemptEnded, lambda it: it.result != "success")
        ]
        if not interrupted:
            raise DemoFailed("no task was interrupted")
        again = {fact.task_id: fact for _, fact in self.story.facts(TaskStarted) if fact.attempt > 1}
        for ended in interrupted:
            where = again.get(ended.task_id)
            if where is None:
                raise DemoFailed(f"task {ended.task_id} was interrupted and not run again")
            self.say(
                f"  {ended.task_id}: attempt {ended.attempt} on {ended.instance_id} {ended.result} "
                f"({ended.reason}); attempt {where.attempt} on {where.instance.instance.id}: done."
            )
        told = sorted(self.marks.glob("*.notice"))
        for file in told:
            self.say(f"  {file.stem} was told by its on_notice command: {file.read_text().strip()} s left.")
        self.say(f"All {len(tasks)} tasks are done; {len(interrupted)} attempts had been interrupted.")

    # --- the daemon

    def metrics_are_scraped(self) -> None:
        """What Prometheus would get, with the token and without."""
        address = f"http://127.0.0.1:{self.house.port}/metrics"
        try:
            urllib.request.urlopen(address, timeout=10)
        except urllib.error.HTTPError as error:
            refused = error.code
            error.close()
        else:
            raise DemoFailed(f"{address} answers without the token")
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {self.house.token}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                series = answer.read().decode().splitlines()
        except OSError as error:
            raise DemoFailed(f"{address} can't be scraped: {error}") from error
        samples = [line for line in series if not line.startswith("#")]
        self.say(
            f"Prometheus scrapes {address}: {len(samples)} series ({refused} without the token), such as"
        )
        shown = [line for line in samples if line.startswith(SHOWN) and not line.endswith(" 0.0")]
        for name in SHOWN:
            if not any(line.startswith(name) for line in shown):
                raise DemoFailed(f"/metrics has no {name} above 0")
        for line in shown[:8]:
            self.say(f"  {line}")

    def daemon_dies_and_returns(self) -> None:
        """kill -9 while tasks run; everything goes on, and is known afterwards."""
        before = self.house.living()
        tasks = self.submit(6, SHORT_LINES)
        self.story.until("tasks run", 30, lambda: self._running(tasks))
        self.house.kill_daemon()
        self.say(f"The daemon is killed with kill -9 while {len(self._running(tasks))} tasks run.")
        time.sleep(1)
        if self.house.living() != before:
            raise DemoFailed(f"machines lived: {before}, and after the daemon's death: {self.house.living()}")
        self.say(f"  {len(before)} machines live without it, and their tasks go on.")
        took = self.house.start()
        self.say(f"  It is back (pid {self._pid}), ready after {took:.1f} s.")
        self.story.until("the tasks finish", 60, lambda: set(tasks) <= set(self.story.completed()))
        again = [
            fact for _, fact in self.story.facts(TaskStarted) if fact.task_id in tasks and fact.attempt > 1
        ]
        if again:
            raise DemoFailed(f"{len(again)} tasks were run again because of the daemon's death")
        self.say(f"  {len(tasks)} tasks are done, none of them was disturbed.")
        if self.house.living() != before:
            raise DemoFailed(f"machines lived: {before}, and with the new daemon: {self.house.living()}")

    def _running(self, tasks: list[str]) -> list[str]:
        over = set(self.story.completed())
        started = [fact.task_id for _, fact in self.story.facts(TaskStarted)]
        return [task for task in tasks if task in started and task not in over]

    # --- the end

    def everything_fits(self) -> None:
        """No machine, task, result or log line was lost or doubled."""
        self.story.listen()
        self.say("Checked:")
        self.say(f"  {check_machines(self.story, NODES)}.")
        self.say(f"  {check_tasks(self.story)}.")
        self.say(f"  {check_logs(self.story)}.")
        self.say(f"  {check_marks(self.story, self.marks)}.")

    def nothing_is_left(self) -> None:
        """The pool goes, then the daemon; no process stays."""
        self.say(f"The pool is ended: everpool down {POOL}")
        self.house.client.submit(ShutdownRequested(cluster_id=POOL))
        self.story.until("the pool is gone", 40, lambda: self.story.first(ClusterDestroyed))
        self.say(f"  {check_gone(self.story)}.")
        left = [pid for pid in self.house.processes() if pid != self._pid]
        if left:
            raise DemoFailed(f"processes are left after `down`: {left}")
        code = self.house.stop_daemon()
        if code:
            raise DemoFailed(f"the daemon stopped with exit code {code}")
        left = self.house.processes()
        if left:
            raise DemoFailed(f"processes are left: {left}")
        self.say("  The daemon has stopped, and no process of ours is left.")
