"""What the clients make of daemons that die, of what is between, and of what is no daemon at all."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.client import AsyncClient, Client, EverpoolError, NotRunning
from controller.client_wire import Target, named
from tests.controller.api.conftest import task
from tests.controller.api.desk import SmallDesk

pytestmark = pytest.mark.anyio
Answer = tuple[int, dict[str, str], bytes]
OPERATION = {"request_id": "r1", "kind": "task_requested", "pool": "main", "seq": 1, "at": 1.0}
PENDING = json.dumps({**OPERATION, "status": "pending"}).encode()
ENDED = json.dumps({**OPERATION, "status": "success", "ended_by": 2}).encode()


class Server(ThreadingHTTPServer):
    """Answers what it is told to; None: it hears the request and lets the connection go."""

    answers: Callable[[str], Answer | None]
    paths: list[str]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.paths.append(f"{self.path} {body.decode()}".strip())
        answer = self.server.answers(self.path)
        if answer is None:
            return
        status, headers, body = answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(answers: Callable[[str], Answer | None]) -> Iterator[tuple[str, list[str]]]:
    """A URL, and what is asked for there: the path and the body."""
    with Server(("127.0.0.1", 0), _Handler) as server:
        server.answers, server.paths = answers, []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server.paths
        finally:
            server.shutdown()
            thread.join(10)


# --- a daemon that dies -------------------------------------------------------------------------


def dying(times: int) -> Callable[[str], Answer | None]:
    """A daemon that knows of an operation, and dies so many times while its end is waited for."""
    left = times

    def answers(path: str) -> Answer | None:
        nonlocal left
        if "wait=" not in path:
            return 200, {}, PENDING
        left -= 1
        return (200, {}, ENDED) if left < 0 else None

    return answers


async def test_who_waits_outlives_a_daemon_that_dies_in_the_first_poll() -> None:
    with served(dying(4)) as (url, _), Client(url) as everpool:
        assert everpool.wait("r1", 30).status == "success"
    with served(dying(4)) as (url, _):
        async with AsyncClient(url) as everpool_later:
            assert (await everpool_later.wait("r1", 30)).status == "success"


async def test_who_waits_for_what_nobody_knows_hears_so_at_once() -> None:
    with served(lambda path: (404, {}, b'{"error": "no request"}')) as (url, _), Client(url) as everpool:
        with pytest.raises(EverpoolError, match="no request"):
            everpool.wait("r1")
    with Client("http://127.0.0.1:1") as everpool, pytest.raises(NotRunning):
        everpool.wait("r1")


@pytest.mark.parametrize("status", [502, 504])
def test_who_waits_behind_a_proxy_outlives_a_restart(status: int) -> None:
    once: Iterator[Answer] = iter([(200, {}, PENDING), (status, {}, b"<html>bad gateway"), (200, {}, ENDED)])
    with served(lambda path: next(once)) as (url, _), Client(url) as everpool:
        assert everpool.wait("r1", 30).status == "success"


# --- what is no daemon --------------------------------------------------------------------------

HTML = {"Content-Type": "text/html"}
STRANGE: dict[str, Answer] = {
    "a redirect": (302, {"Location": "/login"}, b"<html>"),
    "not modified": (304, {}, b""),
    "a page": (200, HTML, b"<html>hi"),
    "nothing": (204, {}, b""),
    "not compressed": (200, {"Content-Encoding": "gzip"}, b"nope"),
    "an error of another form": (404, HTML, b'{"error": "x", "detail": 5}'),
    "a cursor like none": (410, {"X-Everpool-Cursor": "9" * 5000}, b"{}"),
}
METHODS: dict[str, Callable[[Client], object]] = {
    "whoami": lambda everpool: everpool.whoami(),
    "pools": lambda everpool: everpool.pools(),
    "tasks": lambda everpool: everpool.tasks(),
    "operation": lambda everpool: everpool.operation("x"),
    "submit": lambda everpool: everpool.submit(task("t1")),
    "events": lambda everpool: everpool.events(),
    "follow": lambda everpool: next(everpool.follow()),
    "task_log": lambda everpool: list(everpool.task_log("x", follow=True)),
    "measured": lambda everpool: list(everpool.measured("x")),
    "file": lambda everpool: everpool.file("x", "y"),
    "metrics": lambda everpool: everpool.metrics(),
    "ready": lambda everpool: everpool.ready(),
}


@pytest.mark.parametrize("answer", STRANGE)
def test_what_is_no_answer_of_a_daemon_is_an_error(answer: str) -> None:
    with served(lambda path: STRANGE[answer]) as (url, _), Client(url) as everpool:
        for name, ask in METHODS.items():
            if answer == "not compressed" and name in ("follow", "task_log", "measured"):
                continue  # streams are read as they are
            with pytest.raises(EverpoolError) as told:
                ask(everpool)
            assert told.value.detail == () and "\n" not in told.value.message, name
            if answer == "a redirect":
                assert "/login" in told.value.message


@pytest.mark.parametrize("body", [b"[3]", b"null", b"7", b'"x"', b"{", b"{}"])
def test_json_that_a_daemon_would_not_say_is_an_error(body: bytes) -> None:
    with served(lambda path: (200, {}, body)) as (url, _), Client(url) as everpool:
        for name, ask in METHODS.items():
            if name in ("file", "metrics", "events", "follow", "task_log", "measured"):
                continue  # any text, and lines that end
            if body == b"{}" and name in ("whoami", "ready"):
                continue
            with pytest.raises(EverpoolError, match="is not everpool"):
                ask(everpool)


async def test_lines_that_a_daemon_would_not_say_are_an_error() -> None:
    for line in (b"<html>\n", b"[]\n", b"null\n", b"{}\n"):
        with served(lambda path, line=line: (200, {}, line)) as (url, _):  # type: ignore[misc]
            with Client(url) as everpool:
                for ask in ("events", "follow", "task_log", "measured"):
                    with pytest.raises(EverpoolError, match="is not everpool"):
                        METHODS[ask](everpool)
            async with AsyncClient(url) as everpool_later:
                with pytest.raises(EverpoolError, match="is not everpool"):
                    await anext(everpool_later.follow())
                with pytest.raises(EverpoolError, match="is not everpool"):
                    await everpool_later.operation("x")


# --- what is given ------------------------------------------------------------------------------


async def test_one_name_is_not_taken_for_its_letters(everpool: AsyncClient, desk: SmallDesk) -> None:
    assert (await everpool.create_token("ci", pools="ci-*")).pools == ["ci-*"]
    assert [one.event.kind for one in await everpool.events(kinds="pool_requested")] == ["pool_requested"]


def test_one_name_is_sent_as_one() -> None:
    with served(lambda path: (200, {}, b"[]")) as (url, paths), Client(url) as everpool:
        everpool.targets("ci-1", states="ready")
        with pytest.raises(EverpoolError):
            everpool.offers(provider="local", region=("a", "b"))
        for change in (everpool.put_secret_group, everpool.merge_secret_group):
            with pytest.raises(EverpoolError):
                change("db", {}, pools="ci-*")
    assert paths == [
        "/v1/sd?pool=ci-1&state=ready",
        "/v1/offers?provider=local&region=a&region=b",
        *['/v1/secrets/db {"values":{},"pools":["ci-*"]}'] * 2,
    ]


SECRET = "evp_not-for-any-eyes"


@pytest.mark.parametrize("token", [f"{SECRET}\n", f" {SECRET}\r\n"])
async def test_a_token_may_have_space_around_it(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Target.parse("http://x:1", token).token == SECRET
    monkeypatch.setenv("EVERPOOL_TOKEN", token)
    assert Target.parse("http://x:1", None).token == SECRET


@given(st.text(st.characters(codec="utf-8"), max_size=5), st.text(max_size=5))
def test_a_token_that_can_be_none_is_refused_and_not_shown(before: str, behind: str) -> None:
    token = f"{before}{SECRET}{behind}"
    plain = token.strip()
    if plain.isascii() and plain.isprintable() and " " not in plain:
        assert Target.parse("http://x:1", token).headers["Authorization"] == f"Bearer {plain}"
        return
    with pytest.raises(EverpoolError) as told:
        Target.parse("http://x:1", token)
    assert SECRET not in told.value.message


@pytest.mark.parametrize("name", ["", ".", "..", "\udc80"])
def test_names_that_lead_elsewhere_are_not_sent(name: str) -> None:
    with served(lambda path: (200, {}, b"{}")) as (url, paths), Client(url) as everpool:
        for ask in (
            everpool.pool,
            everpool.task,
            everpool.operation,
            everpool.files,
            everpool.revoke_token,
            everpool.task_log,
            lambda one: everpool.file("t", one),
        ):
            with pytest.raises(EverpoolError, match="no name"):
                ask(name)
        for path in (f"a/{name or '..'}/b", "../../../tokens"):
            with pytest.raises(EverpoolError, match="no name"):
                everpool.file("t", path)
    assert paths == []


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_other_names_are_one_segment(name: str) -> None:
    if name not in (".", ".."):
        assert not set("/?#") & set(named(name))


@pytest.mark.parametrize(
    "address", ["http://[::1", "http://h:1?x=1", "HTTP://h", "ftp://h", "http://h:99999", "http://", "a\0b"]
)
def test_wrong_addresses_are_told_of(address: str) -> None:
    for client in (Client, AsyncClient):
        with pytest.raises(EverpoolError) as told:
            client(address)
        assert told.value.status == 0


def test_a_file_of_certificates_that_is_none_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("mine")
    for name in ("none", "ca"):
        with pytest.raises(EverpoolError, match=f"{tmp_path / name} can't be used"):
            Client("https://h:1", ca_file=tmp_path / name)


# --- an operation with a long log ---------------------------------------------------------------


async def test_a_log_of_an_operation_goes_on_behind_its_cursor(
    everpool: AsyncClient, desk: SmallDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.api.operations.LOG_MAX", 1)
    entries: list[str] = []
    found = await everpool.operation("make-main")
    assert (found.seq, found.ended_at is not None) == (1, True) and found.at > 0
    while found.log:
        assert found.more and len(found.log) == 1
        entries.append(found.log[0].kind)
        found = await everpool.operation("make-main", after=found.cursor)
    assert not found.more and entries[0] == "pool_requested" and len(entries) > 1
