"""Where links put the many small events: implements `actors.links.Telemetry`."""

from actors.events import InstanceId
from controller.telemetry.console import ConsoleStore
from controller.telemetry.files import FileStore
from controller.telemetry.logs import LogStore
from controller.telemetry.metrics_store import MetricsStore
from providers.agent.wire import Console, FetchedFile, LogLines, Metrics


class Sink:
    """Hands each report to its store. Raises OSError when it can't be kept now."""

    def __init__(
        self, *, logs: LogStore, console: ConsoleStore, files: FileStore, metrics: MetricsStore
    ) -> None:
        self.logs = logs
        self.console_store = console
        self.files = files
        self.metrics_store = metrics

    def log(self, pool: str, instance: InstanceId, boot: str, report: LogLines) -> None:
        """Keep lines of a task's output, each once."""
        self.logs.append(pool, report, boot, instance)

    def console(self, pool: str, instance: InstanceId, report: Console) -> None:
        """Keep output of a set-up step. Its run stands for the boot: ids only grow within both."""
        self.console_store.append(pool, instance, report, report.run_id)

    def file(self, pool: str, instance: InstanceId, report: FetchedFile) -> None:
        """Keep a piece of a fetched file, once."""
        self.files.put(pool, report)

    def metrics(self, pool: str, instance: InstanceId, report: Metrics) -> None:
        """Keep measured values, with the machine's own times."""
        self.metrics_store.put(pool, instance, report)

    def task_over(self, pool: str, task_id: str, instance: InstanceId | None) -> None:
        """A task is over: its followers end, and its files may go when room is needed."""
        self.logs.finish(pool, task_id)
        self.files.finish(pool, task_id)
        if instance is not None:
            self.metrics_store.task_over(instance, task_id)

    def instance_gone(self, pool: str, instance: InstanceId) -> None:
        """A machine is observed absent."""
        self.console_store.finish(pool, instance)
        self.metrics_store.forget(instance)

    def close(self) -> None:
        """Let go of open files."""
        self.logs.close()
        self.console_store.close()
