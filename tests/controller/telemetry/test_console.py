"""Console output of set-ups."""

from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from controller.telemetry.console import ConsoleStore
from providers.agent.wire import Console


def said(content: str, number: int, *, stream: str = "stdout", overwrite: bool = False) -> Console:
    return Console.model_validate(
        {"id": number, "at": 5, "run_id": "r", "stream": stream, "content": content, "overwrite": overwrite}
    )


def test_output_is_kept_once_in_order_over_a_restart(tmp_path: Path) -> None:
    store = ConsoleStore(tmp_path)
    store.append("p", "i-1", said("one\ntwo\n", 1), "b")
    store.append("p", "i-1", said("err", 2, stream="stderr"), "b")
    assert store.append("p", "i-1", said("err", 2, stream="stderr"), "b") == []
    store.close()
    with (tmp_path / "p/_instances/i-1/console.jsonl").open("ab") as file:
        file.write(b'{"n":4,"at":5.000,"text":"half of an app')
    store = ConsoleStore(tmp_path)
    assert store.append("p", "i-1", said("err", 2, stream="stderr"), "b") == []
    store.append("p", "i-1", said("again", 1), "another boot")
    page = store.read("p", "i-1")
    assert [(line.n, line.stream, line.text) for line in page.lines] == [
        (1, "stdout", "one"),
        (2, "stdout", "two"),
        (3, "stderr", "err"),
        (4, "stdout", "again"),
    ]
    assert store.read("p", "i-1", after=page.cursor).lines == []
    assert [line.n for line in store.tail("p", "i-1", 2).lines] == [3, 4]
    with pytest.raises(ValueError, match="not a console cursor"):
        store.read("p", "i-1", after="x")


def test_files_are_bounded(tmp_path: Path) -> None:
    store = ConsoleStore(tmp_path, file_bytes=1000, files_max=3)
    for i in range(1, 501):
        store.append("p", "i-1", said(f"line {i}", i), "b")
    directory = tmp_path / "p/_instances/i-1"
    assert len(list(directory.iterdir())) <= 3
    assert sum(path.stat().st_size for path in directory.iterdir()) == store.kept.bytes <= 3000
    lines = store.read("p", "i-1").lines
    assert [line.n for line in lines] == list(range(lines[0].n, 501))
    assert store.remove("p", "i-1")
    assert not directory.exists()


@pytest.mark.anyio
async def test_following_ends_with_the_instance(tmp_path: Path) -> None:
    store, seen = ConsoleStore(tmp_path, file_bytes=500), list[str]()

    async def follow() -> None:
        async with aclosing(store.follow("p", "i-1")) as pages:
            async for page in pages:
                seen.extend(line.text for line in page.lines)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            for i in range(1, 60):
                store.append("p", "i-1", said(f"{i}", i), "b")
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            store.finish("p", "i-1")
    assert seen == [f"{i}" for i in range(1, 60)]


@pytest.mark.anyio
async def test_what_an_earlier_process_left_counts(tmp_path: Path) -> None:
    store = ConsoleStore(tmp_path)
    store.append("p", "gone", said("x", 1), "b")
    size = store.kept.bytes
    store.close()
    store = ConsoleStore(tmp_path, total_bytes_max=1)
    await store.load([])
    assert (store.kept.bytes, store.kept.evicted_bytes) == (0, size)
