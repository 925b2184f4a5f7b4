"""Output of tasks: once and in order, through resends, crashes, rotation and full disks."""

import resource
import signal
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.telemetry.appending import numbered
from controller.telemetry.lines import LINE_BYTES_MAX, LogLine, Stream
from controller.telemetry.logs import LogStore
from providers.agent.wire import LogLines

POOL, TASK = "p", "t-1"


def store(path: Path, *, file_bytes: int = 2**20, total: int = 2**30, files_max: int = 256) -> LogStore:
    return LogStore(path, file_bytes=file_bytes, total_bytes_max=total, files_max=files_max)


def report(
    text: str,
    *,
    offset: int = 0,
    number: int = 1,
    attempt: int = 1,
    stream: Stream = "stdout",
    at: float = 1.0,
    task: str = TASK,
    dropped: int = 0,
) -> LogLines:
    """What an agent says of `text`, written at `offset`: as it cuts lines itself."""
    lines: list[tuple[str, int]] = []
    rest = text
    while rest:
        ends = [place for place in (rest.find("\n"), rest.find("\r")) if place >= 0]
        if not ends:
            lines.append((rest, 2))
            break
        place = min(ends)
        lines.append((rest[:place], 0 if rest[place] == "\n" else 1))
        rest = rest[place + 1 :]
    return LogLines(
        id=number,
        at=at,
        task=task,
        attempt=attempt,
        stream=stream,
        offset=offset,
        next_offset=offset + len(text.encode()),
        lines=tuple(lines),
        dropped=dropped,
    )


def texts(logs: LogStore, *, attempt: int | None = None, raw: bool = True, limit: int = 10_000) -> list[str]:
    return [line.text for line in logs.read(POOL, TASK, attempt=attempt, limit=limit, raw=raw).lines]


def numbers(lines: list[LogLine]) -> list[int]:
    return [line.n for line in lines]


def test_lines_are_kept_once_and_in_order(tmp_path: Path) -> None:
    logs = store(tmp_path)
    new = logs.append(POOL, report("one\ntwo\n"), "b", "i")
    assert [(line.n, line.text) for line in new] == [(1, "one"), (2, "two")]
    assert logs.append(POOL, report("one\ntwo\n"), "b", "i") == []
    assert logs.append(POOL, report("one\ntwo\n"), "another boot", "i") == []
    logs.append(POOL, report("two\nthree\n", offset=4, number=2), "b", "i")
    assert texts(logs) == ["one", "two", "three"]


WORDS = st.text(alphabet="ab\n\r\té€😀", min_size=1, max_size=120)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), text=WORDS)
def test_any_cuts_repeats_and_crashes_give_the_same_lines(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, text: str
) -> None:
    root = tmp_path_factory.mktemp("logs")
    total, have, number = len(text.encode()), 0, 0
    logs = store(root, file_bytes=data.draw(st.sampled_from([120, 400, 2**20])))
    starts = [0]  # byte offsets of characters
    for c in text:
        starts.append(starts[-1] + len(c.encode()))
    while have < total:
        begin = data.draw(st.sampled_from([s for s in starts if s <= have]))  # sent again from anywhere
        again = data.draw(st.booleans()) and begin < have
        end = data.draw(st.sampled_from([s for s in starts if (begin < s <= have if again else s > have)]))
        piece = text.encode()[begin:end].decode()
        number += 1
        boot = "b"
        if data.draw(st.booleans()):
            number, boot = number, f"b{number}"
        logs.append(POOL, report(piece, offset=begin, number=number), boot, "i")
        have = max(have, end)
        if data.draw(st.booleans()):  # kill -9, perhaps in the middle of the next write
            logs.close()
            torn = data.draw(st.integers(0, 80))
            base = root / POOL / TASK / "1.stdout.jsonl"
            if torn and base.exists():
                with base.open("ab") as file:
                    file.write(
                        b'{"n":99,"at":1.000,"text":"whole record without a position"}\n{"n":100,"a'[:torn]
                    )
            logs = store(root, file_bytes=data.draw(st.sampled_from([120, 400, 2**20])))
    logs.kept.finish(f"{POOL}/{TASK}")
    expected = text.replace("\r", "\n").split("\n")
    expected = expected[:-1] if not expected[-1] else expected
    lines = logs.read(POOL, TASK, raw=True).lines
    assert [line.text for line in lines] == expected
    assert numbers(lines) == list(range(1, len(expected) + 1))
    step = data.draw(st.integers(1, 5))
    assert [line for page in pages(logs, step) for line in page] == lines
    assert logs.tail(POOL, TASK, 3, raw=True).lines == lines[-3:]
    logs.close()


def pages(logs: LogStore, step: int, *, raw: bool = True) -> Iterator[list[LogLine]]:
    cursor = ""
    while True:
        page = logs.read(POOL, TASK, after=cursor, limit=step, raw=raw)
        yield page.lines
        cursor = page.cursor
        if not page.more:
            return


def test_a_cut_within_bytes_that_are_no_utf8_is_found_by_the_reports_length(tmp_path: Path) -> None:
    logs = store(tmp_path)
    logs.append(POOL, report("ab\n"), "b", "i")
    again = LogLines(
        id=1,
        task=TASK,
        attempt=1,
        stream="stdout",
        offset=0,
        next_offset=9,  # ab\n \xff\xfe \n cd\n
        lines=(("ab", 0), ("\ufffd\ufffd", 0), ("cd", 0)),
    )
    logs.append(POOL, again, "b2", "i")
    assert texts(logs) == ["ab", "\ufffd\ufffd", "cd"]


def test_the_end_of_a_line_alone_finishes_it(tmp_path: Path) -> None:
    logs = store(tmp_path)
    logs.append(POOL, report("half"), "b", "i")
    assert texts(logs) == []
    logs.append(POOL, report("half and more\nx\n", number=1), "b2", "i")
    assert texts(logs) == ["half and more", "x"]
    logs.append(POOL, report("y", offset=16, number=2), "b2", "i")
    logs.append(POOL, report("y\n", offset=16, number=3), "b2", "i")
    assert texts(logs) == ["half and more", "x", "y"]


def test_an_unfinished_line_counts_when_the_task_is_over(tmp_path: Path) -> None:
    logs = store(tmp_path)
    logs.append(POOL, report("a\nno end"), "b", "i")
    assert texts(logs) == ["a"]
    logs.finish(POOL, TASK)
    assert texts(logs) == ["a", "no end"]
    assert [line.text for line in logs.tail(POOL, TASK, 1).lines] == ["no end"]


def test_a_line_of_fifty_megabytes_is_split_and_says_so(tmp_path: Path) -> None:
    logs = store(tmp_path, file_bytes=4 * 2**20)
    piece = "x" * 65_536
    count = 50 * 16
    for i in range(count):
        end = i == count - 1
        logs.append(
            POOL,
            LogLines(
                id=i + 1,
                task=TASK,
                attempt=1,
                stream="stdout",
                offset=i * 65_536,
                next_offset=(i + 1) * 65_536 + end,
                lines=((piece, 0 if end else 2),),
            ),
            "b",
            "i",
        )
    logs.append(POOL, report("next\n", offset=count * 65_536 + 1, number=count + 1), "b", "i")
    lines = [line for page in pages(logs, 7) for line in page]
    assert [len(line.text) for line in lines] == [LINE_BYTES_MAX] * 50 + [4]
    assert [line.cut for line in lines] == [True] * 49 + [False, False]
    assert numbers(lines) == list(range(1, 52))
    assert [line.n for line in logs.tail(POOL, TASK, 2).lines] == [50, 51]


def test_progress_bars_show_their_last_state(tmp_path: Path) -> None:
    logs = store(tmp_path)
    logs.append(POOL, report("begin\n10%\r20%\r"), "b", "i")
    assert texts(logs, raw=False) == ["begin", "20%"]
    logs.append(POOL, report("99%\rdone\n", offset=14, number=2), "b", "i")
    assert texts(logs, raw=False) == ["begin", "done"]
    assert texts(logs) == ["begin", "10%", "20%", "99%", "done"]
    logs.append(POOL, report("".join(f"{i}\r" for i in range(5000)) + "end\n", offset=22, number=3), "b", "i")
    assert [line.text for line in logs.tail(POOL, TASK, 3).lines] == ["begin", "done", "end"]
    assert [line.text for page in pages(logs, 1, raw=False) for line in page] == ["begin", "done", "end"]


def test_files_are_rotated_and_numbers_go_on(tmp_path: Path) -> None:
    logs = store(tmp_path, file_bytes=2000)
    offset = 0
    for i in range(1, 201):
        text = f"line {i}\n"
        logs.append(POOL, report(text, offset=offset, number=i), "b", "i")
        offset += len(text)
        if i % 50 == 0:
            logs.close()
            logs = store(tmp_path, file_bytes=2000)
    base = tmp_path / POOL / TASK / "1.stdout.jsonl"
    assert len(numbered(str(base))) > 5
    assert max(path.stat().st_size for path in base.parent.iterdir()) <= 2000
    assert texts(logs) == [f"line {i}" for i in range(1, 201)]
    page = logs.read(POOL, TASK, after=120, limit=3)
    assert numbers(page.lines) == [121, 122, 123]
    assert numbers(logs.read(POOL, TASK, after=page.cursor, limit=2).lines) == [124, 125]
    assert numbers(logs.tail(POOL, TASK, 30).lines) == list(range(171, 201))


def test_a_big_file_is_entered_by_bisection(tmp_path: Path) -> None:
    logs = store(tmp_path, file_bytes=2**26)
    text = "".join(f"line {i}\n" for i in range(1, 30_001))
    logs.append(POOL, report(text), "b", "i")
    for after in (0, 1, 9_999, 15_000, 29_999):
        assert logs.read(POOL, TASK, after=after, limit=1).lines[0].text == f"line {after + 1}"
    assert logs.read(POOL, TASK, after=30_000).lines == []


def test_streams_and_attempts_are_apart_and_read_in_order(tmp_path: Path) -> None:
    logs = store(tmp_path)
    logs.append(POOL, report("a\n", at=1), "b", "i")
    logs.append(POOL, report("e\n", at=2, stream="stderr", number=2), "b", "i")
    logs.append(POOL, report("c\n", offset=2, at=3, number=3), "b", "i")
    logs.append(POOL, report("again\n", attempt=2, at=9), "b9", "i2")
    assert texts(logs) == ["a", "e", "c", "again"]
    assert logs.attempts(POOL, TASK) == [1, 2]
    assert texts(logs, attempt=2) == ["again"]
    assert [line.text for line in logs.read(POOL, TASK, stream="stderr").lines] == ["e"]
    assert [[line.text for line in page] for page in pages(logs, 2)] == [["a", "e"], ["c", "again"]]
    assert [line.text for line in logs.tail(POOL, TASK, 3).lines] == ["e", "c", "again"]


def test_what_is_missing_is_counted(tmp_path: Path) -> None:
    logs = store(tmp_path)
    logs.append(POOL, report("a\nhal", dropped=0), "b", "i")
    logs.append(POOL, report("z\n", offset=105, number=1, dropped=7), "b2", "i")
    logs.append(POOL, report("", offset=107, number=2, dropped=3), "b2", "i")
    logs.append(POOL, report("", offset=107, number=2, dropped=3), "b2", "i")
    logs.lost(POOL, TASK, 1, lines=4)
    logs.lost(POOL, TASK, 1, lines=4)
    lines = logs.read(POOL, TASK).lines
    assert [(line.text, line.cut, line.dropped, line.lost_bytes, line.lost_lines) for line in lines] == [
        ("", False, 0, 0, 4),
        ("a", False, 0, 0, 0),
        ("hal", True, 0, 0, 0),
        ("z", False, 7, 100, 0),
        ("", False, 3, 0, 0),
    ]
    assert (logs.dropped, logs.lost_bytes, logs.lost_lines) == (10, 100, 4)


@pytest.mark.anyio
async def test_followers_see_every_line_once_across_attempts_and_rotation(tmp_path: Path) -> None:
    logs = store(tmp_path, file_bytes=1500)
    seen: list[str] = []
    late: list[str] = []

    async def follow(into: list[str], after: str) -> None:
        async with aclosing(logs.follow(POOL, TASK, after=after)) as found:
            async for page in found:
                into.extend(line.text for line in page.lines)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(follow, seen, "")
            for attempt in (1, 2, 3, 4, 5):
                offset = 0
                for i in range(40):
                    text = f"{attempt}.{i}\n"
                    stream: Stream = "stdout" if attempt < 4 else "stderr"
                    line = report(text, offset=offset, number=i + 1, attempt=attempt, stream=stream)
                    logs.append(POOL, line, f"b{attempt}", "i")
                    offset += len(text)
                    if i % 7 == 0:
                        await anyio.lowlevel.checkpoint()
                    if (attempt, i) == (3, 20):
                        group.start_soon(follow, late, logs.tail(POOL, TASK, 0).cursor)
            await anyio.wait_all_tasks_blocked()
            logs.append(
                POOL, report("no end", offset=offset, number=99, attempt=5, stream="stderr"), "b5", "i"
            )
            logs.finish(POOL, TASK)
    expected = [f"{attempt}.{i}" for attempt in (1, 2, 3, 4, 5) for i in range(40)] + ["no end"]
    assert seen == expected
    assert late == expected[expected.index("3.21") :]


@pytest.mark.anyio
async def test_following_a_task_that_is_over_or_silent_ends(tmp_path: Path) -> None:
    logs = store(tmp_path)
    with anyio.fail_after(5):
        assert [page async for page in logs.follow(POOL, "nothing", is_over=lambda: True)] == []
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                assert [page async for page in logs.follow(POOL, "silent")] == []

            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            logs.finish(POOL, "silent")
        logs.append(POOL, report("x\n"), "b", "i")
        logs.append(POOL, report("y\n", attempt=2), "b", "i")
        one = [page async for page in logs.follow(POOL, TASK, attempt=1)]
        assert [line.text for page in one for line in page.lines] == ["x"]
    assert list(tmp_path.joinpath(POOL).iterdir()) == [tmp_path / POOL / TASK]


def test_a_bad_cursor_is_refused(tmp_path: Path) -> None:
    logs = store(tmp_path)
    for cursor in ("x", "1", "1.2", "1.2.-3", "1.2.3-", "9" * 2000):
        with pytest.raises(ValueError, match="not a log cursor"):
            logs.read(POOL, TASK, after=cursor)


def test_names_stay_inside_the_directory(tmp_path: Path) -> None:
    root = tmp_path / "logs"
    logs = store(root)
    for task in ("../../etc", "/x", ".", "..", "a/b", "_instances", "x" * 300, "ü"):
        logs.append(POOL, report("l\n", task=task), "b", "i")
        assert [line.text for line in logs.read(POOL, task).lines] == ["l"]
    assert len(list((root / POOL).iterdir())) == 8
    assert list(tmp_path.iterdir()) == [root]


def test_the_oldest_finished_tasks_give_way_first(tmp_path: Path) -> None:
    logs = store(tmp_path, total=60_000)
    text = "x" * 99 + "\n"
    for i in range(10):
        task = f"t-{i}"
        logs.append(POOL, report(text * 80, task=task), "b", "i")
        if i not in (0, 3):
            logs.finish(POOL, task)
    there = sorted(path.name for path in (tmp_path / POOL).iterdir())
    assert there == ["t-0", "t-3", "t-7", "t-8", "t-9"]
    assert logs.kept.evicted_tasks == 5
    assert logs.kept.bytes <= 60_000 + 14_000
    assert logs.remove(POOL, "t-0")
    assert not (tmp_path / POOL / "t-0").exists()


def test_a_running_task_gives_up_its_own_oldest_lines(tmp_path: Path) -> None:
    logs = store(tmp_path, total=400_000, file_bytes=2**20)
    text = ("x" * 99 + "\n") * 100
    for i in range(200):
        logs.append(POOL, report(text, offset=i * len(text), number=i + 1), "b", "i")
    assert logs.kept.bytes <= 400_000 + 100_000
    assert logs.kept.evicted_bytes > 1_000_000
    lines = [line for page in pages(logs, 1000) for line in page]
    assert numbers(lines) == list(range(lines[0].n, 20_001))
    logs.close()
    again = store(tmp_path)
    assert again.append(POOL, report(text, offset=199 * len(text), number=200), "b", "i") == []
    assert again.append(POOL, report("z\n", offset=200 * len(text), number=201), "b", "i")[0].n == 20_001


@pytest.mark.anyio
async def test_what_an_earlier_process_left_counts(tmp_path: Path) -> None:
    logs = store(tmp_path)
    for task in ("live", "over", "ended-meanwhile"):
        logs.append(POOL, report("x" * 99 + "\n", task=task), "b", "i")
    logs.close()
    kept = logs.kept.bytes
    logs = store(tmp_path)
    logs.append(POOL, report("y\n", task="live", offset=100, number=2), "b", "i")
    logs.finish(POOL, "ended-meanwhile")
    added = logs.kept.bytes
    await logs.load([(POOL, "live"), (POOL, "ended-meanwhile")])
    assert logs.kept.bytes == kept + added
    assert [logs.kept.is_over(f"{POOL}/{task}") for task in ("live", "over", "ended-meanwhile")] == [
        False,
        True,
        True,
    ]


def test_few_open_files_are_enough(tmp_path: Path) -> None:
    logs = store(tmp_path, files_max=2)
    for i in range(4):
        for attempt in range(1, 6):
            logs.append(POOL, report(f"{i}\n", offset=2 * i, number=i + 1, attempt=attempt), "b", "i")
    assert texts(logs) == ["0", "1", "2", "3"] * 5


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """No file can be longer than this, as on a full disk: writes come short, then fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    yield 5000
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_raises_and_nothing_is_lost_or_doubled(tmp_path: Path, file_size_limit: int) -> None:
    logs = store(tmp_path)
    text, offset, number = "x" * 400 + "\n", 0, 1
    while offset + 2 * len(text) + 400 < file_size_limit:
        logs.append(POOL, report(text, offset=offset, number=number), "b", "i")
        offset, number = offset + len(text), number + 1
    rest = report(text * 10, offset=offset, number=number)
    with pytest.raises(OSError, match="No space left"):  # a short write
        logs.append(POOL, rest, "b", "i")
    before = texts(logs)
    with pytest.raises(OSError, match="No space left|too large"):
        logs.append(POOL, rest, "b", "i")
    assert texts(logs) == before
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    logs.append(POOL, rest, "b", "i")
    logs.append(POOL, rest, "b", "i")
    assert texts(logs) == [*before, *[text[:-1]] * 10]


def test_a_crash_right_after_a_rotation_forgets_nothing(tmp_path: Path) -> None:
    logs = store(tmp_path)
    first = report("a\nb\n")
    logs.append(POOL, first, "b", "i")
    logs.close()
    base = tmp_path / POOL / TASK / "1.stdout.jsonl"
    base.rename(base.with_name(base.name + ".1"))
    for torn in (b"", b'{"n":3,"at":1.000,"text":"c"}\n{"n'):
        if torn:
            base.write_bytes(torn)
        logs = store(tmp_path, total=1)  # too much is kept; this part alone knows where we stand
        assert logs.append(POOL, first, "b", "i") == []
        assert texts(logs) == ["a", "b"]
        logs.close()
    assert logs.append(POOL, report("c\n", offset=4, number=2), "b", "i")[0].n == 3
    assert texts(logs)[-1] == "c"
