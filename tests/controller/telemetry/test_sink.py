"""What links hand over lands where it is looked for."""

import base64
from pathlib import Path

from actors.links import Telemetry
from controller.telemetry.console import ConsoleStore
from controller.telemetry.files import FileStore
from controller.telemetry.logs import LogStore
from controller.telemetry.metrics_store import MetricsStore
from controller.telemetry.sink import Sink
from providers.agent.wire import Console, FetchedFile, LogLines, Metrics


def test_each_report_lands_in_its_store(tmp_path: Path) -> None:
    logs, files = LogStore(tmp_path / "logs"), FileStore(tmp_path / "files")
    sink = Sink(logs=logs, console=ConsoleStore(tmp_path / "logs"), files=files, metrics=MetricsStore())
    telemetry: Telemetry = sink
    data = base64.b64encode(b"data").decode()
    for _ in range(2):  # everything is heard twice
        telemetry.log(
            "p",
            "i",
            "b",
            LogLines(id=1, task="t", attempt=1, stream="stdout", offset=0, next_offset=2, lines=(("x", 0),)),
        )
        telemetry.console("p", "i", Console(id=2, run_id="r", stream="stdout", content="hello"))
        telemetry.file(
            "p", "i", FetchedFile(id=3, task="t", attempt=1, path="f", offset=0, data=data, last=True)
        )
        telemetry.metrics("p", "i", Metrics(id=4, at=1.0, values={"load1": 1.0}))
    assert [line.text for line in logs.read("p", "t").lines] == ["x"]
    assert [line.text for line in sink.console_store.read("p", "i").lines] == ["hello"]
    assert [file.path for file in files.list("p", "t")] == ["f"]
    assert sink.metrics_store.of("i") is not None
    sink.task_over("p", "t", "i")
    sink.instance_gone("p", "i")
    assert sink.metrics_store.of("i") is None
    sink.close()
