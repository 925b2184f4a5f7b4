"""The main job: a pool kept whole under notices, kills and a dead daemon, while tasks are followed."""

import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from actors.events import Envelope, InstancePreempted, InstanceReplaced, InstanceRequested, TaskRequested
from controller.client import Client, LogLine
from tests.real.rig import PATIENCE_S, Rig, tasks_of, until

pytestmark = pytest.mark.real

TOKEN = "a-token-for-this-test-only"
LINES = 60
# Works in steps of a tenth of a second, and goes on where the attempt before it was.
SCRIPT = """
i=$(cat "$PLACE" 2>/dev/null || echo 0)
while [ $i -lt $LINES ]; do
    i=$((i + 1))
    echo "attempt $EVERPOOL_ATTEMPT line $i"
    echo $i > "$PLACE.new" && mv "$PLACE.new" "$PLACE"
    sleep 0.1
done
"""


class Follower(threading.Thread):
    """Follows a task's log from the beginning to the end of the task, as a user's program would."""

    def __init__(self, address: Path, task: str) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._task_id = task
        self.lines: list[LogLine] = []

    def run(self) -> None:
        with Client(self._address) as client:
            for line in client.task_log(self._task_id, follow=True):
                self.lines.append(line)


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def scrape(port: int, token: str | None) -> tuple[int, str]:
    """What Prometheus would get."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_main_job(rig: Rig) -> None:
    port = free_port()
    token_file = rig.root / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(TOKEN)
    rig.configure(daemon=f'listen = "127.0.0.1:{port}"\ntoken_file = "{token_file}"')
    rig.start()
    assert rig.up(nodes=3).status == "success"
    before = {node: rig.machine_of(node=node) for node in range(3)}
    specs = [task_spec(rig.root / f"place-{i}", node) for i, node in enumerate((0, 1, 2))]
    tasks = tasks_of("main", specs)
    assert all(one.taken for one in rig.client.submit(tasks))
    followers = [Follower(rig.state / "api.sock", one.request_id) for one in tasks]
    for one, follower in zip(tasks, followers, strict=True):
        until(lambda one=one: rig.text(one.request_id), "it works")  # type: ignore[misc]
        follower.start()

    rig.give_notice(before[0], within_s=10)
    replaced(rig, before[0], "planted")
    rig.kill_machine(before[1])
    replaced(rig, before[1], "gone")
    assert scrape(port, None)[0] == scrape(port, "another-token-than-this")[0] == 401
    code, series = scrape(port, TOKEN)
    assert code == 200
    assert 'everpool_launches_total{outcome="ok",provider="local"} 5.0' in series

    rig.restart()
    assert scrape(port, TOKEN)[0] == 200
    for follower in followers:
        follower.join(PATIENCE_S)
        assert not follower.is_alive()
    ends = rig.check_tasks(one.request_id for one in tasks)
    assert {end.result for end in ends.values()} == {"success"}
    assert [ends[one.request_id].attempts for one in tasks] == [2, 2, 1]
    nodes = [end.instance.node for end in ends.values() if end.instance is not None]
    assert nodes == [0, 1, 2]
    for one, follower in zip(tasks, followers, strict=True):
        check_followed(rig, one, follower)
    rig.down()
    rig.check_ends()


def task_spec(place: Path, node: int) -> dict[str, Any]:
    """A task for one node."""
    return {"shell": SCRIPT, "env": {"PLACE": str(place), "LINES": str(LINES)}, "node": node}


def replaced(rig: Rig, old: str, reason: str) -> None:
    """A machine is taken: its rank is asked for again in that very turn, and filled."""

    def found() -> list[Envelope]:
        return [
            one
            for one in rig.events("instance_replaced")
            if isinstance(one.event, InstanceReplaced) and one.event.old_id == old
        ]

    (end,) = until(found, f"{old} is replaced")
    events = {one.seq: one for one in rig.events()}
    chain = [end]
    while (cause := chain[-1].caused_by) is not None and not isinstance(chain[-1].event, InstancePreempted):
        chain.append(events[cause])
    taken = chain[-1]
    assert isinstance(taken.event, InstancePreempted), [one.event.kind for one in chain]
    assert taken.event.instance.instance.id == old and reason in taken.event.reason
    asked = next(one for one in chain if isinstance(one.event, InstanceRequested))
    assert isinstance(asked.event, InstanceRequested)
    assert asked.event.replacing == old and asked.event.node_id == taken.event.instance.node
    assert asked.at == taken.at, "in the same turn"
    assert isinstance(end.event, InstanceReplaced)
    assert end.event.new.node == taken.event.instance.node
    assert end.ends[0] == asked.event.request_id == end.request_id


def check_followed(rig: Rig, task: TaskRequested, follower: Follower) -> None:
    """The follower had every line once and in order, and no step of the work is missing."""
    assert [(one.attempt, one.n) for one in follower.lines] == [
        (one.attempt, one.n) for one in rig.lines(task.request_id)
    ]
    steps: list[int] = []
    for texts in rig.check_log(task.request_id).values():
        steps += [int(text.split()[-1]) for text in texts]
    assert steps == sorted(steps)
    assert steps[-1] == LINES
    missing = set(range(1, LINES + 1)) - set(steps)
    assert len(missing) <= 3, "what died unsent with a machine is little"
