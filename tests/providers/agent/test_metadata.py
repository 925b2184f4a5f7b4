"""Word from vendors' metadata servers: what is asked, what answers mean, and real servers that misbehave."""

import email.utils
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.agent import agent as a
from tests.fakes.metadata import GceMetadata, Imds, MetadataServers
from tests.fakes.serving import served
from tests.providers.agent.rig import AGENT, Rig, Stream, start, until
from tests.providers.agent.test_survival import oldest_python, resume

WALL = 1_000_000.0
DATE = email.utils.formatdate(WALL + 500, usegmt=True)  # the vendor's clock is ahead of ours
GOOGLE = {"metadata-flavor": "Google"}


def answer(status: int, body: str = "", **headers: str) -> a.Answer:
    return a.Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body.encode())


def ec2(**options: Any) -> a.Ec2Watch:
    """One that has its token."""
    watch = a.Ec2Watch(**{"rebalance": True, **options})
    watch.ask(0.0)
    assert watch.hear(0.0, WALL, answer(200, "secret"), {}) == ([], 0.0)
    return watch


def hear(watch: Any, given: a.Answer, now: float = 1.0, held: Any = None) -> tuple[list[a.Noticed], float]:
    watch.ask(now)
    heard: tuple[list[a.Noticed], float] = watch.hear(now, WALL, given, held or {})
    return heard


# --- ec2, without a server


def test_a_token_is_asked_for_first_and_again_before_it_ends() -> None:
    watch = a.Ec2Watch(rebalance=False)
    ask = watch.ask(0.0)
    assert (ask.method, ask.path) == ("PUT", "/latest/api/token")
    assert ask.headers == {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
    token_ttl = answer(200, "one", x_aws_ec2_metadata_token_ttl_seconds="100")
    assert watch.hear(0.0, WALL, token_ttl, {}) == ([], 0.0)
    ask = watch.ask(1.0)
    assert (ask.method, ask.path) == ("GET", "/latest/meta-data/spot/instance-action")
    assert ask.headers == {"X-aws-ec2-metadata-token": "one"}
    assert watch.ask(89.0).method == "GET"
    assert watch.ask(90.0).method == "PUT"


def test_a_refused_token_is_replaced_once_and_then_waited_for() -> None:
    watch = ec2()
    assert hear(watch, answer(401)) == ([], 0.0)
    assert hear(watch, answer(200, "two")) == ([], 0.0)
    watch.ask(2.0)
    with pytest.raises(a.NoAnswer, match="a new token is refused"):
        watch.hear(2.0, WALL, answer(401), {})
    assert watch.ask(3.0).method == "PUT"


@pytest.mark.parametrize(
    "given", [answer(403), answer(200, ""), answer(200, "two words"), answer(200, "\x00"), answer(500, "x")]
)
def test_what_is_no_token_is_none(given: a.Answer) -> None:
    watch = a.Ec2Watch(rebalance=True)
    with pytest.raises(a.NoAnswer, match="token"):
        hear(watch, given)


@pytest.mark.parametrize("action", ["terminate", "stop", "hibernate"])
def test_the_end_is_reckoned_by_the_vendors_own_clock(action: str) -> None:
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(WALL + 500 + 120))
    said = json.dumps({"action": action, "time": ends})
    noticed, wait_s = hear(ec2(rebalance=False), answer(200, said, date=DATE))
    assert noticed == [a.Noticed(f"spot interruption: {action}", 119.5, "aws")]
    assert wait_s == 2.0
    noticed, _ = hear(ec2(), answer(200, said))  # without a Date there is only our clock
    assert noticed[0].within_s == 620
    noticed, _ = hear(ec2(), answer(200, said, date=email.utils.formatdate(WALL + 900, usegmt=True)))
    assert noticed[0].within_s == 0


def test_a_word_of_ec2_is_passed_on_when_it_changes() -> None:
    watch = ec2()
    first = '{"action": "terminate", "time": "1970-01-12T13:55:00Z"}'
    assert hear(watch, answer(404)) == ([a.Noticed(None, None, "aws")], 0.0)
    assert hear(watch, answer(404)) == ([a.Noticed(None, None, "aws-rebalance")], 2.0)
    assert hear(watch, answer(404)) == ([], 0.0)
    assert hear(watch, answer(200, '{"noticeTime": "1970-01-12T13:55:00Z"}')) == (
        [a.Noticed("rebalance recommendation", None, "aws-rebalance")],
        2.0,
    )
    assert len(hear(watch, answer(200, first))[0]) == 1
    assert hear(watch, answer(404)) == ([a.Noticed(None, None, "aws-rebalance")], 2.0)
    assert hear(watch, answer(200, first))[0] == []
    hear(watch, answer(404))
    assert hear(watch, answer(200, first.replace("55:00", "56:00")))[0][0].within_s is not None
    hear(watch, answer(404))
    assert hear(watch, answer(404))[0] == [a.Noticed(None, None, "aws")]


def test_a_word_whose_time_can_not_be_read_is_still_a_word() -> None:
    noticed, _ = hear(ec2(), answer(200, '{"action": "terminate", "time": "soon"}'))
    assert noticed == [a.Noticed("spot interruption: terminate", None, "aws")]
    assert hear(ec2(), answer(200, '{"action": "none"}'))[0] == [a.Noticed(None, None, "aws")]


@pytest.mark.parametrize(
    "body", ["<html>", "[]", "{}", '{"action": 5}', '{"action": "\\ud800"}', "[" * 100_000, "1" * 5000]
)
def test_garbage_is_no_word_and_takes_none_back(body: str) -> None:
    watch = ec2()
    hear(watch, answer(200, '{"action": "stop", "time": "1970-01-12T13:55:00Z"}'))
    watch.failed()
    with pytest.raises(a.NoAnswer):
        hear(watch, answer(200, body))
    with pytest.raises(a.NoAnswer, match="503"):
        hear(watch, answer(503))


def test_a_recommendation_that_fails_does_not_hide_the_interruption() -> None:
    watch = ec2()
    hear(watch, answer(404))
    with pytest.raises(a.NoAnswer):
        hear(watch, answer(500))
    watch.failed()
    assert watch.ask(3.0).path.endswith("spot/instance-action")


# --- compute engine, without a server


def gce() -> Any:
    return a.watches_of("gcp", True)[0]


def test_a_change_is_waited_for_with_the_etag_that_is_known() -> None:
    watch = gce()
    ask = watch.ask(0.0)
    assert (ask.path, ask.headers) == (
        "/computeMetadata/v1/instance/preempted",
        {"Metadata-Flavor": "Google"},
    )
    given = answer(200, "FALSE", etag="411261ca6c9e4", **GOOGLE)
    assert watch.hear(0.1, WALL, given, {}) == ([a.Noticed(None, None, "gcp")], 0.2)
    ask = watch.ask(1.0)
    assert ask.path.endswith("?wait_for_change=true&timeout_sec=60&last_etag=411261ca6c9e4")
    assert ask.within_s > 60
    assert watch.hear(61.0, WALL, given, {}) == ([], 0.0)
    watch.ask(61.0)
    noticed, _ = watch.hear(70.0, WALL, answer(200, "TRUE", etag="5", **GOOGLE), {})
    assert noticed == [a.Noticed("preempted", 30.0, "gcp")]


def test_a_server_that_holds_nothing_back_is_not_asked_without_end() -> None:
    watch = gce()
    same = answer(200, "FALSE", etag="1", **GOOGLE)
    assert [hear(watch, same)[1] for _ in range(3)] == [0.2, 1.0, 1.0]
    assert hear(watch, answer(200, "FALSE", **GOOGLE))[1] == 2.0  # without an etag: as often as ec2
    assert hear(watch, answer(404, **GOOGLE))[1] == 60.0


@pytest.mark.parametrize(
    "given",
    [
        answer(200, "TRUE", etag="1"),  # a captive portal, a proxy
        answer(200, "MAYBE", **GOOGLE),
        answer(403, "no", **GOOGLE),
        answer(503, **GOOGLE),
        answer(301, location="/computeMetadata/v1/", **GOOGLE),
    ],
)
def test_what_is_no_answer_of_google_says_nothing(given: a.Answer) -> None:
    with pytest.raises(a.NoAnswer):
        hear(gce(), given)


def test_what_an_earlier_process_heard_is_not_prolonged() -> None:
    true = answer(200, "TRUE", etag="1", **GOOGLE)
    assert hear(gce(), true, held={"gcp": ("preempted", 17.0)})[0] == []
    assert len(hear(gce(), true, held={"gcp-maintenance": ("maintenance", 17.0)})[0]) == 1


@pytest.mark.parametrize(
    ("event", "reason", "within_s"),
    [
        ("NONE", None, None),
        ("MIGRATE_ON_HOST_MAINTENANCE", None, None),
        ("TERMINATE_ON_HOST_MAINTENANCE", "maintenance", 60.0),
    ],
)
def test_maintenance_of_the_host(event: str, reason: str | None, within_s: float | None) -> None:
    watch = a.watches_of("gcp", True)[1]
    noticed, _ = hear(watch, answer(200, event, etag="1", **GOOGLE))
    assert noticed == [a.Noticed(reason, within_s, "gcp-maintenance")]


# --- HTTP


def test_an_answer_is_read_in_any_pieces() -> None:
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: x\r\n\r\nTRUE"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nTR\r\n2;a=b\r\nUE\r\n0\r\n\r\n"
    for whole in (plain, chunked):
        first = next(at for at in range(len(whole) + 1) if a.parse_answer(whole[:at], False) is not None)
        found = a.parse_answer(whole[:first], False)
        assert found is not None
        assert (found.status, found.body) == (200, b"TRUE")
        for cut in range(first):
            with pytest.raises(a.NoAnswer, match="cut off|closed|no HTTP"):
                a.parse_answer(whole[:cut], True)
    to_the_end = a.parse_answer(b"HTTP/1.0 404 Not Found\r\n\r\nno such thing", True)
    assert to_the_end == a.Answer(404, {}, b"no such thing")
    assert a.parse_answer(b"HTTP/1.0 404 Not Found\r\n\r\nno such", False) is None


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_an_answer_or_none(data: bytes, ended: bool) -> None:
    for head in (
        b"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2",
    ):
        try:
            a.parse_answer(head + data, ended)
        except a.NoAnswer:
            continue


def test_an_answer_without_end_is_given_up() -> None:
    with pytest.raises(a.NoAnswer, match="more than"):
        a.parse_answer(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 70_000, False)


@given(st.datetimes(min_value=datetime(1970, 1, 1)))
def test_times_are_read_as_everybody_reads_them(moment: datetime) -> None:
    at = moment.replace(microsecond=0, tzinfo=UTC)
    assert a.iso_time(at.isoformat()) == at.timestamp()
    assert a.http_time(email.utils.format_datetime(at, usegmt=True)) == at.timestamp()


def test_what_is_no_time_is_none() -> None:
    for text in ("", "soon", "Thu, 01 Foo 1970 00:00:00 GMT", "1970"):
        assert a.http_time(text) is None
        assert a.iso_time(text) is None


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://169.254.169.254", ("169.254.169.254", 80, "")),
        ("http://[fd00:ec2::254]:8080/base/", ("[fd00:ec2::254]", 8080, "/base")),
        ("http://metadata.google.internal/", ("metadata.google.internal", 80, "")),
    ],
)
def test_addresses_of_metadata_servers(url: str, parts: tuple[str, int, str]) -> None:
    assert a.split_url(url) == parts


@pytest.mark.parametrize(
    "url", ["", "https://h", "http://", "http://h:99999", "http://u:p@h", "http://h/?x", "h:80"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="no URL"):
        a.split_url(url)


# --- real servers


class Server:
    """A metadata server that can be taken away and come back at its address."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._stack = ExitStack()
        self.url = self._stack.enter_context(served(app))

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self) -> None:
        if not isinstance(self.app, Slow):
            self.app.close()
        self._stack.close()

    def again(self, app: Any) -> None:
        self.app = app
        self._stack.enter_context(served(app, port=self.port))


class Slow:
    """Takes every request and answers none."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.free = threading.Event()

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        self.asked.set()
        self.free.wait(60)
        start_response("200 OK", [])
        return [b""]


@pytest.fixture
def servers() -> Iterator[MetadataServers]:
    it = MetadataServers()
    yield it
    it.close()


def hasty(rig: Rig, tmp_path: Path, **constants: float) -> None:
    """Let the rig's agent be one whose waits are short."""
    source = AGENT.read_text()
    waits = {"EC2_EVERY_S": 0.05, "METADATA_FIRST_S, METADATA_MOST_S": "0.05, 0.2", **constants}
    for name, value in waits.items():
        source, found = re.subn(rf"(?m)^{re.escape(name)} = [^#\n]+", f"{name} = {value}  ", source)
        assert found == 1, name
    rig.command_file = tmp_path / "hasty.py"
    rig.command_file.write_text(source)


def watching(rig: Rig, kind: str, url: str, *options: str) -> None:
    rig.options += ["--metadata", kind, "--metadata-url", url, *options]


def log_of(rig: Rig) -> str:
    return (rig.dir / "agent.log").read_text()


def notice(stream: Stream, reason: str) -> dict[str, Any]:
    return stream.until(lambda m: m["t"] == "notice" and m["reason"].startswith(reason))


def asked(app: Imds | GceMetadata, call: str, times: int) -> Callable[[], bool]:
    return lambda: app.controls.calls[call] >= times


def asked_more(app: Imds | GceMetadata, call: str, times: int = 3) -> Callable[[], bool]:
    before = app.controls.calls[call]
    return lambda: app.controls.calls[call] >= before + times


@pytest.mark.real
def test_a_spot_machine_of_ec2(rig: Rig, servers: MetadataServers, tmp_path: Path) -> None:
    app = Imds()
    app.clock_ahead_s = 1000
    hasty(rig, tmp_path)
    watching(rig, "aws", servers.start("i", app))
    stream = rig.attach()
    until(asked_more(app, "get"))
    stream.say(start("t", "sleep", "100"))
    stream.until(lambda m: m["t"] == "started")
    app.rebalance()
    advice = notice(stream, "rebalance")
    assert advice.get("within_s") is None and advice["early"]
    assert not [m for m in stream.heard if m["t"] == "ended"]  # it may go on
    app.notice(120)
    assert stream.ended("t")["why"] == "notice"
    assert 110 < notice(stream, "spot interruption: terminate")["within_s"] <= 120
    app.notice(40, "stop")
    assert 30 < notice(stream, "spot interruption: stop")["within_s"] <= 40
    app.withdraw()
    stream.until(lambda m: m["t"] == "notice_gone")
    assert [m.get("reason") for m in stream.heard if m["t"] in ("notice", "notice_gone")][-1] is None
    stream.say(start("u", "true"))
    assert stream.ended("u")["code"] == 0
    assert app.controls.calls["token"] == 1
    assert log_of(rig) == ""


@pytest.mark.real
def test_a_recommendation_can_be_ignored(rig: Rig, servers: MetadataServers, tmp_path: Path) -> None:
    app = Imds()
    app.rebalance()
    hasty(rig, tmp_path)
    watching(rig, "aws", servers.start("i", app), "--rebalance", "ignore")
    stream = rig.attach()
    until(asked_more(app, "get", 5))
    app.notice()
    notice(stream, "spot interruption")
    assert len(stream.of("notice")) == 1


@pytest.mark.real
def test_tokens_that_end_are_renewed(rig: Rig, servers: MetadataServers, tmp_path: Path) -> None:
    app = Imds()
    hasty(rig, tmp_path)
    watching(rig, "aws", servers.start("i", app))
    stream = rig.attach()
    for _ in range(3):
        until(asked_more(app, "get"))
        app.expire_tokens()
    until(asked_more(app, "get"))
    app.notice()
    notice(stream, "spot")
    assert app.controls.calls["token"] == 4
    assert log_of(rig) == ""


@pytest.mark.real
def test_a_machine_of_compute_engine(rig: Rig, servers: MetadataServers) -> None:
    app = GceMetadata()
    watching(rig, "gcp", servers.start("m", app))
    stream = rig.attach()
    until(asked(app, "instance/maintenance-event", 2))
    app.maintenance("MIGRATE_ON_HOST_MAINTENANCE")
    app.maintenance()
    assert notice(stream, "maintenance")["within_s"] == 60
    app.notice()
    assert notice(stream, "preempted")["within_s"] == 30
    app.withdraw()
    stream.until(lambda m: m["t"] == "notice_gone")
    calls = sum(app.controls.calls.values())
    stream.say(start("t", "sleep", "1"))
    stream.ended("t")
    assert sum(app.controls.calls.values()) <= calls + 4  # it waits, it does not poll


@pytest.mark.real
@pytest.mark.parametrize("kind", ["aws", "gcp"])
def test_a_server_that_hangs_holds_up_nothing(rig: Rig, tmp_path: Path, kind: str) -> None:
    slow = Slow()
    server = Server(slow)
    try:
        hasty(rig, tmp_path, ANSWER_S=0.3)
        watching(rig, kind, server.url)
        stream = rig.attach()
        assert slow.asked.wait(20)
        stream.say(start("t", "true"))
        assert stream.ended("t")["code"] == 0
        until(lambda: "no answer in time" in log_of(rig))
        server.stop()
        until(lambda: rig.agent_pid() > 0)
        app = Imds() if kind == "aws" else GceMetadata()
        app.notice()
        server.again(app)
        assert notice(stream, "spot" if kind == "aws" else "preempted")
    finally:
        slow.free.set()
        server.stop()


@pytest.mark.real
@pytest.mark.parametrize("kind", ["aws", "gcp"])
def test_failures_of_the_server_change_no_word(
    rig: Rig, servers: MetadataServers, tmp_path: Path, kind: str
) -> None:
    app: Imds | GceMetadata = Imds() if kind == "aws" else GceMetadata()
    call = "get" if kind == "aws" else "instance/preempted"
    hasty(rig, tmp_path, GCE_HOLDS_S=1)
    watching(rig, kind, servers.start("m", app))
    stream = rig.attach()
    app.notice()
    notice(stream, "spot" if kind == "aws" else "preempted")
    app.garbage = True
    until(asked_more(app, call))
    app.garbage = False
    app.controls.fail_before("*", 5)
    until(asked_more(app, call, 5))
    app.controls.cut_before("*", 5)
    until(asked_more(app, call, 5))
    assert len(stream.of("notice")) == 1
    assert not stream.of("notice_gone")
    app.withdraw()
    stream.until(lambda m: m["t"] == "notice_gone")
    assert 1 <= len(log_of(rig).splitlines()) <= 2  # one for each who watches, however often it failed


@pytest.mark.real
@pytest.mark.parametrize("kind", ["aws", "gcp"])
def test_a_server_that_goes_and_comes_back(rig: Rig, tmp_path: Path, kind: str) -> None:
    make: Callable[[], Any] = Imds if kind == "aws" else GceMetadata
    server = Server(make())
    try:
        hasty(rig, tmp_path)
        watching(rig, kind, server.url)
        stream = rig.attach()
        until(asked(server.app, "get" if kind == "aws" else "instance/preempted", 2))
        server.stop()
        until(lambda: log_of(rig) != "")  # refused, closed or reset, as it happens
        app = make()  # knows none of the old one's tokens
        app.notice()
        server.again(app)
        notice(stream, "spot" if kind == "aws" else "preempted")
    finally:
        server.stop()


@pytest.mark.real
def test_where_nobody_listens_the_agent_works(rig: Rig) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        watching(rig, "aws", f"http://127.0.0.1:{taken.getsockname()[1]}")
        stream = rig.attach()
        stream.say(start("t", "true"))
        assert stream.ended("t")["code"] == 0
        until(lambda: "metadata (aws): " in log_of(rig))


@pytest.mark.real
def test_the_vendors_own_variables_say_where(
    rig: Rig, servers: MetadataServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws, gcp = Imds(), GceMetadata()
    aws.notice()
    gcp.notice()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", servers.start("a", aws) + "/")
    host = servers.start("g", gcp).replace("http://127.0.0.1", "localhost")  # a name, to be looked up
    monkeypatch.setenv("GCE_METADATA_HOST", host)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    rig.options += ["--metadata", "aws"]
    notice(rig.attach(), "spot")
    rig.kill_agent()
    rig.options[-1] = "gcp"
    stream = rig.attach()
    notice(stream, "preempted")


@pytest.mark.real
@pytest.mark.parametrize("options", [["--metadata", "azure"], ["--metadata-url", "nowhere"]])
def test_options_that_make_no_sense_are_told(rig: Rig, options: list[str]) -> None:
    command = [sys.executable, str(AGENT), "attach", "--dir", str(rig.dir), *options]
    ran = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert ran.returncode == 2
    assert options[1] in ran.stderr


@pytest.mark.real
def test_an_upgrade_goes_on_watching_and_takes_back_what_nobody_says(
    rig: Rig, servers: MetadataServers, tmp_path: Path
) -> None:
    app = Imds()
    app.notice(300)
    hasty(rig, tmp_path)
    watching(rig, "aws", servers.start("i", app), "--rebalance", "ignore")
    stream = rig.attach()
    notice(stream, "spot")
    stream.ack()
    newer = tmp_path / "newer.py"
    newer.write_text(rig.command_file.read_text() + "\n# newer\n")
    pid = rig.agent_pid()
    stream.say({"t": "upgrade", "epoch": 1, "path": str(newer)})
    until(lambda: str(newer) in Path(f"/proc/{pid}/cmdline").read_text())
    again = resume(rig, stream)
    until(asked_more(app, "get"))
    argv = Path(f"/proc/{rig.agent_pid()}/cmdline").read_text().split("\0")
    assert argv[argv.index("--rebalance") + 1] == "ignore"
    app.withdraw()
    again.until(lambda m: m["t"] == "notice_gone")
    assert not again.of("notice")  # what was heard before is not told again
    app.notice()
    notice(again, "spot")
    again.ack()
    rig.kill_agent()
    rig.options = rig.options[:2]
    last = resume(rig, again)
    last.until(lambda m: m["t"] == "notice_gone")


@pytest.mark.real
@pytest.mark.parametrize("kind", ["aws", "gcp"])
def test_the_oldest_python_watches_too(rig: Rig, servers: MetadataServers, kind: str) -> None:
    rig.python = oldest_python()
    app: Imds | GceMetadata = Imds() if kind == "aws" else GceMetadata()
    app.notice()
    watching(rig, kind, servers.start("m", app))
    notice(rig.attach(), "spot" if kind == "aws" else "preempted")
