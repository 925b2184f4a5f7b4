"""What the desk takes, what it refuses, and what those who are limited to some pools hear of others."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import pytest

from actors.events import Envelope, PoolRequested, Request, TaskRequested, TaskStopRequested
from actors.loop import Loop
from actors.ports import Accepted
from actors.spec import Image, Nodes, PoolSpec, TaskSpec
from controller.config import load
from controller.daemon import Daemon
from controller.desk import Refused
from controller.journal.journal import SqliteJournal
from controller.journal.lock import StateDirectory
from controller.principal import Principal, Scope
from controller.records import Records
from controller.recovery import Sweep
from controller.secrets.keys import write_new_key
from controller.status import Status

pytestmark = pytest.mark.anyio
CONFIG = """
[daemon]
state_dir = "{root}/state"
secrets_key = {{ file = "{root}/key" }}
[providers.sim]
type = "simulated"
[webhooks.pager]
url = "https://hooks.example/x"
secret = {{ env = "NOWHERE" }}
"""
LIMITED = Principal("token:ci", Scope.SUBMIT, ("alpha",))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """Built, and its loops not run; pools alpha and beta, with a task each, which no loop has seen."""
    write_new_key(tmp_path / "key")
    path = tmp_path / "everpool.toml"
    path.write_text(CONFIG.format(root=tmp_path))
    config = load(path)
    with StateDirectory.take(config.daemon.state_dir) as directory:
        async with SqliteJournal(directory.journal) as journal:
            built = Daemon(config, path, directory, journal)
            built.records = built.desk.records = Records(journal, built.observer, built.clock, {})
            for pool in ("alpha", "beta"):
                spec = PoolSpec(provider=("sim",), nodes=Nodes(desired=1), max_hourly_cost=1)
                made = PoolRequested(request_id=f"make-{pool}", pool=pool, spec=spec)
                assert isinstance((await built.desk.submit([made, asked(pool)], "me"))[1], Accepted)
            yield built
            streams: list[Sweep | Loop] = [built.sweep, *built.acting.loops.values()]
            for one in streams:  # nobody ran that would have closed them
                one._send.close()
                one._receive.close()


def asked(pool: str, **fields: object) -> TaskRequested:
    task = TaskSpec(argv=("true",))
    return TaskRequested(request_id=f"of-{pool}", pool=pool, task=task).model_copy(update=fields)


def stop(pool: str, task: str, **fields: object) -> TaskStopRequested:
    return TaskStopRequested(request_id="stop", pool=pool, task_id=task).model_copy(update=fields)


async def refused(daemon: Daemon, request: Request, who: Principal = LIMITED) -> Refused:
    answer = (await daemon.desk.submit([request], who.name, who.may_see))[0]
    assert isinstance(answer, Refused), answer
    return answer


async def test_a_stop_right_behind_its_task_is_taken(daemon: Daemon) -> None:
    answer = (await daemon.desk.submit([stop("alpha", "of-alpha")], "me"))[0]
    assert isinstance(answer, Accepted) and answer.new


async def test_a_task_that_is_known_makes_no_other_refusal_good(daemon: Daemon) -> None:
    """A pool that is not there, a webhook that is not, another's task: nothing opens, and nothing stays."""
    assert (await refused(daemon, stop("ghost", "of-alpha"))).status == 404
    assert (await refused(daemon, stop("alpha", "of-alpha", reply_to="zzz"))).status == 422
    assert (await refused(daemon, stop("alpha", "of-beta"))).status == 404
    assert (await refused(daemon, stop("alpha", "make-alpha"))).status == 404
    assert sorted(daemon.acting.loops) == ["alpha", "beta"]
    assert daemon.webhooks._early == []


async def test_a_repetition_is_one_whatever_has_changed_since(daemon: Daemon) -> None:
    first = asked("alpha", request_id="again", reply_to="pager")
    assert [one.new for one in await daemon.desk.submit([first], "me") if isinstance(one, Accepted)] == [True]
    daemon.desk.config = replace(daemon.desk.config, webhooks={})
    assert [one.new for one in await daemon.desk.submit([first], "me") if isinstance(one, Accepted)] == [
        False
    ]


async def test_what_is_of_others_is_said_of_as_what_is_nowhere(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    await daemon.secrets.put("beta-db", {"A": "1"}, "me", pools=("beta",))

    def group(name: str) -> TaskRequested:
        spec = TaskSpec(argv=("true",), env_groups=(name,))
        return TaskRequested(request_id="t", pool="alpha", task=spec)

    both = [(await refused(daemon, group(name))).message.replace(name, "X") for name in ("beta-db", "zzz")]
    assert both[0] == both[1] and "beta" not in both[0]
    monkeypatch.setattr(
        Status, "task_state", lambda self, name: SimpleNamespace(pool="beta") if name == "of-beta" else None
    )
    both = [(await refused(daemon, stop("alpha", n))).message.replace(n, "X") for n in ("of-beta", "zzz")]
    assert both[0] == both[1]
    hook = (await refused(daemon, asked("alpha", request_id="r", reply_to="zzz"))).message
    assert "'zzz'" in hook and "pager" not in hook


async def test_an_image_names_only_secrets_that_are_there_for_its_pool(daemon: Daemon) -> None:
    await daemon.secrets.put("beta-db", {"A": "1"}, "me", pools=("beta",))

    def made(name: str) -> PoolRequested:
        spec = PoolSpec(provider=("local",), image=Image(env_groups=(name,)))
        return PoolRequested(request_id="p", pool="alpha", spec=spec)

    who = Principal("token:all", Scope.SUBMIT)
    said = [(await refused(daemon, made(name), who)).message for name in ("beta-db", "beta-x")]
    assert said[0] == "image.env_groups: group 'beta-db' of secrets is not for pool 'alpha': only for beta"
    assert said[1].endswith("did you mean 'beta-db'?")
    both = [(await refused(daemon, made(name))).message.replace(name, "X") for name in ("beta-db", "zzz")]
    assert both[0] == both[1] and "beta" not in both[0]


async def test_who_sees_all_is_told_what_there_is(daemon: Daemon) -> None:
    who = Principal("token:all", Scope.SUBMIT)
    await daemon.secrets.put("beta-db", {"A": "1"}, "me", pools=("beta",))
    spec = TaskSpec(argv=("true",), env_groups=("beta-db",))
    other = await refused(daemon, TaskRequested(request_id="t", pool="alpha", task=spec), who)
    assert "only for beta" in other.message
    unknown = TaskRequested(
        request_id="t", pool="alpha", task=TaskSpec(argv=("true",), env_groups=("beta-x",))
    )
    assert "did you mean 'beta-db'" in (await refused(daemon, unknown, who)).message
    assert (
        "there are pager"
        in (await refused(daemon, asked("alpha", request_id="r", reply_to="zzz"), who)).message
    )


async def test_what_waits_for_a_webhook_that_is_none_is_not_kept(daemon: Daemon) -> None:
    def envelope(name: str) -> Envelope:
        event = asked("alpha", request_id=f"for-{name}", reply_to=name)
        return Envelope(seq=1, at=0.0, pool="alpha", request_id=f"for-{name}", event=event)

    for name in ("pager", "gone"):
        daemon.webhooks.accepted(envelope(name))
    assert daemon.webhooks._early == [("pager", "for-pager")]
    daemon.webhooks.apply({})
    assert daemon.webhooks._early == []


async def test_a_webhook_can_be_asked_for_from_the_first_moment(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(self: object, after: int) -> list[bytes]:
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(SqliteJournal, "replies", never)
    async with anyio.create_task_group() as group:
        group.start_soon(daemon.webhooks.run)
        await anyio.lowlevel.checkpoint()
        assert daemon.webhooks.view("pager")["name"] == "pager"
        daemon.webhooks.apply({})
        assert daemon.webhooks.names() == []
        group.cancel_scope.cancel()


async def test_a_loop_that_ends_without_a_pool_leaves_no_series(daemon: Daemon) -> None:
    for number in range(300):
        daemon.series.turn_ended(f"ghost-{number}", messages=1, seconds=0.0, waiting=0)
        daemon.series.loop_ended(f"ghost-{number}")
    assert (await daemon.series.exposed()).count(b'everpool_messages_total{pool="ghost-') <= 200
