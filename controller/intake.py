"""Where telemetry of the agents is kept: the port that links write to."""

from actors.events import InstanceId
from actors.instance.facts import node_instance
from controller.status import Status
from controller.telemetry.console import ConsoleStore
from controller.telemetry.files import FileStore
from controller.telemetry.logs import LogStore
from controller.telemetry.metrics_store import MetricsStore
from providers.agent.wire import Console, FetchedFile, LogLines, Metrics


class Intake:
    """Implements `actors.links.Telemetry`."""

    def __init__(
        self,
        *,
        status: Status,
        logs: LogStore,
        console: ConsoleStore,
        files: FileStore,
        metrics: MetricsStore,
    ) -> None:
        self._status = status
        self._logs = logs
        self._console = console
        self._files = files
        self._metrics = metrics

    def log(self, pool: str, instance: InstanceId, boot: str, report: LogLines) -> None:
        """Keep lines of a task's output, each once. Raises OSError."""
        self._logs.append(pool, report, boot, instance)

    def console(self, pool: str, instance: InstanceId, boot: str, report: Console) -> None:
        """Keep output of a set-up step. Raises OSError."""
        self._console.append(pool, instance, report, boot)

    def file(self, pool: str, instance: InstanceId, report: FetchedFile) -> None:
        """Keep a piece of a fetched file, once. Raises OSError."""
        del instance
        self._files.put(pool, report)

    def metrics(self, pool: str, instance: InstanceId, report: Metrics) -> None:
        """Keep measured values, with the machine's own times."""
        state = self._status.instance_state(instance)
        if state is not None:
            self._metrics.put(pool, node_instance(state), report)
