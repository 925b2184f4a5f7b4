"""The demo's house: a daemon of its own in a directory of its own, and a look at every process in it."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from controller.client import Client, NotRunning
from providers.local.machine import start_time
from providers.local.wire import NoticeFile, Record, read

START_WITHIN_S = 30.0
STOP_WITHIN_S = 20.0
CONFIG = """\
[daemon]
state_dir = {state}
listen = "127.0.0.1:{port}"
token_file = {token}
observe_every_s = 1
log_format = "json"

[providers.local]
type = "local"
"""


class DemoFailed(Exception):
    """Something was not as it has to be; the text says what."""


class House:
    """Everything the demo starts lives under `root`, so that all of it can be found and ended."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.log = root / "daemon.log"
        self.config = root / "everpool.toml"
        self.token = secrets.token_hex(16)
        self.port = free_port()
        self.daemon: subprocess.Popen[bytes] | None = None
        self.client = Client(self.state / "api.sock")
        token = root / "token"
        token.touch(mode=0o600)
        token.write_text(self.token + "\n")
        text = CONFIG.format(state=json.dumps(str(self.state)), port=self.port, token=json.dumps(str(token)))
        self.config.write_text(text)

    # --- the daemon

    def start(self) -> float:
        """Start the daemon; return how many seconds it took to be ready. Raises DemoFailed."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "controller", "serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for the demo, which then ends all in order
            )
        while time.monotonic() < began + START_WITHIN_S:
            self.check_alive()
            try:
                if self.client.ready()["ready"]:
                    return time.monotonic() - began
            except NotRunning:
                pass
            time.sleep(0.05)
        raise DemoFailed(f"the daemon was not ready within {START_WITHIN_S:g} s: {self.last_words()}")

    def check_alive(self) -> None:
        """Raise DemoFailed when the daemon has ended by itself."""
        if self.daemon is not None and self.daemon.poll() is not None:
            raise DemoFailed(f"the daemon ended with code {self.daemon.returncode}: {self.last_words()}")

    def kill_daemon(self) -> None:
        """kill -9."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def stop_daemon(self) -> int:
        """SIGTERM; return the exit code. Raises DemoFailed."""
        assert self.daemon is not None
        self.daemon.terminate()
        try:
            return self.daemon.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired as error:
            raise DemoFailed(f"the daemon did not stop within {STOP_WITHIN_S:g} s") from error

    def last_words(self) -> str:
        """The last lines of its log."""
        try:
            return " / ".join(self.log.read_text(errors="replace").strip().splitlines()[-3:])[-1500:]
        except OSError:
            return "no log"

    # --- machines

    @property
    def machines(self) -> Path:
        """Where the local provider keeps its machines."""
        return self.state / "providers" / "local" / "machines"

    def record(self, instance_id: str) -> Record | None:
        """The machine of an instance, if its parent lives."""
        for directory in sorted(self.machines.iterdir()) if self.machines.exists() else ():
            found = read(Record, directory / "machine.json")
            if found is not None and found.instance_id == instance_id:
                return found if start_time(found.pid) == found.start_time else None
        return None

    def living(self) -> list[str]:
        """Ids of the instances whose machines live."""
        found = []
        for directory in sorted(self.machines.iterdir()) if self.machines.exists() else ():
            record = read(Record, directory / "machine.json")
            if record is not None and start_time(record.pid) == record.start_time:
                found.append(record.instance_id)
        return sorted(found)

    def give_notice(self, instance_id: str, within_s: float) -> None:
        """Tell a machine that it will be taken."""
        ref = str(self.client.instance(instance_id)["ref"])
        deadline = time.time() + within_s
        notice = NoticeFile(reason="spot interruption", deadline_at=deadline, within_s=within_s)
        new = self.machines / ref / ".notice.new"
        new.write_text(notice.model_dump_json())
        new.replace(self.machines / ref / "notice.json")

    def kill_machine(self, instance_id: str) -> bool:
        """kill -9 of a machine's parent; False when it was dead already."""
        record = self.record(instance_id)
        if record is None:
            return False
        try:
            os.kill(record.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    # --- the end

    def processes(self) -> list[int]:
        """Every process that has to do with this house: by command line, directory or environment."""
        mark = os.fsencode(self.root)
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdecimal() or int(entry) == os.getpid():
                continue
            if _is_of(Path("/proc") / entry, mark):
                found.append(int(entry))
        return sorted(found)

    def raze(self) -> None:
        """End whatever is left, however it went."""
        self.client.close()
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        for _ in range(50):
            left = self.processes()
            if not left:
                return
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.1)


def _is_of(process: Path, mark: bytes) -> bool:
    try:
        if mark in (process / "cmdline").read_bytes() or mark in os.fsencode(os.readlink(process / "cwd")):
            return not _is_zombie(process)
        return mark in (process / "environ").read_bytes()
    except OSError:  # gone meanwhile, or somebody else's
        return False


def _is_zombie(process: Path) -> bool:
    return (process / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def banner(host: str, port: int) -> str:
    """What the server at an address says first."""
    with socket.create_connection((host, port), timeout=10) as connection:
        return connection.recv(256).split(b"\r\n")[0].decode("ascii", "replace")
