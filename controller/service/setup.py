"""Putting the service in its place, looking at it, and taking it away. What it says is for the user.

All of it may be run again: what is there already and right stays as it is.
"""

import grp
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.events import PoolRequested
from actors.spec import PoolSpec
from controller.client import Client, EverpoolError, TimedOut
from controller.config import Config, ConfigError, parse
from controller.journal.errors import JournalError
from controller.journal.lock import StateDirectory
from controller.journal.reader import Reader
from controller.service import files
from controller.service.files import DROP_INS, GROUP, UNIT, USER, Layout

START_WITHIN_S = 240.0  # more than TimeoutStartSec of the unit
LOG_LINES = 20
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # not there for the service
SHOWN = ("LoadState", "ActiveState", "SubState", "UnitFileState", "MainPID", "NRestarts", "StatusText")
NO_OF_LIVING = -1


class SetupError(Exception):
    """It can't be done, or was not; the text says why and what to do.

    Attributes:
        detail: more lines.
        wrong: the user asked for what can't be, in contrast to something that failed.
    """

    def __init__(self, text: str, detail: Collection[str] = (), *, wrong: bool = False) -> None:
        super().__init__(text)
        self.detail = tuple(detail)
        self.wrong = wrong


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command of the system ended."""

    code: int
    out: str


def run_command(*command: str, given: str = "") -> Ran:
    """Run a command of the system, with `given` as its input. 127 when it is not there."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=START_WITHIN_S)
    except FileNotFoundError:
        return Ran(127, f"{command[0]} is not there")
    except subprocess.TimeoutExpired:
        return Ran(124, f"{' '.join(command)} did not end within {START_WITHIN_S:g} s")
    return Ran(done.returncode, (done.stdout + done.stderr).strip())


@dataclass(slots=True)
class Service:
    """The service on this computer.

    Attributes:
        program: the command `everpool` of the environment that is to be run.
        layout: where files go.
        run: runs commands of the system.
        say: hears each thing that was done.
    """

    program: Path
    layout: Layout = field(default_factory=Layout)
    run: Callable[..., Ran] = run_command
    say: Callable[[str], None] = lambda text: None

    # --- install ----------------------------------------------------------------------------------

    def install(
        self,
        *,
        providers: Collection[str] = (),
        source: Path | None = None,
        pool: str | None = None,
        nodes: int = 1,
        force: bool = False,
        within_s: float = 120.0,
    ) -> dict[str, Any]:
        """Write what is missing, start the daemon, wait until it and the pool are ready.

        Args:
            providers: types for a first config.
            source: a config to begin with instead.
            pool: a pool to begin with, on the first config's providers; one that is there stays as it is.
            nodes: its size.
            force: overwrite a unit that was edited.
            within_s: how long to wait for the pool.

        Raises:
            SetupError: what is wrong. What was done so far stays, and `install` may be run again.
        """
        self._check_program()
        config = self._config(providers, source)
        changed = self._put_files(config, force=force)
        self._make_users({one.type for one in config.providers.values()})
        self._start(restart=changed)
        self._link()
        client = Client(config.daemon.socket_path)
        try:
            health = client.ready()
            whole = None if pool is None else self._pool(client, config, providers, pool, nodes, within_s)
        except EverpoolError as error:
            raise SetupError(f"the service runs, but does not answer: {error}", self._journal()) from error
        finally:
            client.close()
        return {
            "unit": str(self.layout.unit),
            "config": str(self.layout.config),
            "ready": health["ready"],
        } | ({} if whole is None else {"pool": whole})

    def _check_program(self) -> None:
        if not os.access(self.program, os.X_OK):
            raise SetupError(
                f"{self.program} is not there: install everpool's wheel into an environment first"
            )
        if any(self.program.is_relative_to(place) for place in HIDDEN):
            raise SetupError(
                f"the service can't see {self.program}: make the environment elsewhere, in /opt/everpool",
                wrong=True,
            )
        for place in (self.program.resolve(), *self.program.parents):
            if not place.stat().st_mode & 0o001:
                raise SetupError(
                    f"the service's user may not go into {place}: chmod o+rx {place}", wrong=True
                )

    def _config(self, providers: Collection[str], source: Path | None) -> Config:
        place = self.layout.config
        there = place.exists()
        if there:
            text = place.read_text()
        elif source is not None:
            text = source.read_text()
        elif providers:
            text = files.first_config(self.layout.socket, providers)
        else:
            raise SetupError(
                f"there is no {place}: write one, or begin with --local, --container or --config FILE",
                wrong=True,
            )
        try:
            config = parse(text, str(place if there or source is None else source))
        except ConfigError as error:
            raise SetupError(
                "the config is wrong: nothing was started", error.problems, wrong=True
            ) from error
        if there:
            self._check_agrees(config, providers, source, text)
            self.say(f"{place}: is there, and stays as it is")
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
            place.chmod(0o644)
            self.say(f"{place}: written")
        return config

    def _check_agrees(
        self, config: Config, providers: Collection[str], source: Path | None, text: str
    ) -> None:
        place = self.layout.config
        if source is not None and source.read_text() != text:
            raise SetupError(
                f"{place} is there, and is not the same as {source}: put it there yourself", wrong=True
            )
        for kind in providers:
            if kind not in {one.type for one in config.providers.values()}:
                raise SetupError(
                    f"{place} is there, and has no provider of type {kind}: add it there", wrong=True
                )

    def _put_files(self, config: Config, *, force: bool) -> bool:
        wanted = {self.layout.unit: files.unit(self.program)}
        for kind in sorted({one.type for one in config.providers.values()}):
            if kind == "container" and not _has_group("docker"):
                self.say(
                    "there is no group docker: let the service reach the engine's socket by a drop-in "
                    "(systemctl edit everpool) with SupplementaryGroups="
                )
            elif kind in DROP_INS:
                wanted[self.layout.drop_ins / DROP_INS[kind]] = files.shipped(DROP_INS[kind])
        changed = False
        for path, text in wanted.items():
            how = files.put(path, text, force=force)
            if how == "edited":
                raise SetupError(
                    f"{path} was edited: move the changes to a drop-in (systemctl edit everpool), "
                    "then run this again with --force",
                    wrong=True,
                )
            changed = changed or how != "same"
            self.say(f"{path}: {'as it was' if how == 'same' else 'written'}")
        self.layout.credentials.mkdir(parents=True, exist_ok=True)
        return changed

    def _make_users(self, kinds: Collection[str]) -> None:
        lines = [f"g {GROUP} -"]
        if "local" in kinds:
            lines.append(f'u {USER} - "everpool" /var/lib/everpool')
        done = self.run("systemd-sysusers", "-", given="\n".join(lines) + "\n")
        if done.code:
            raise SetupError(f"the group {GROUP} and the service's user can't be made", done.out.splitlines())

    def _start(self, *, restart: bool) -> None:
        self._systemctl("daemon-reload")
        self._systemctl("reset-failed", UNIT, may_fail=True)
        self._systemctl("enable", UNIT)
        if restart or self._runs_other_files():
            self._systemctl("restart", UNIT)
        else:
            self._systemctl("start", UNIT)
        self.say(f"{UNIT}: started, and starts with the computer")

    def _runs_other_files(self) -> bool:
        """Whether the environment changed since the daemon started: an upgrade."""
        pid = self.show().get("MainPID", "0")
        try:
            began = Path("/proc", pid).stat().st_mtime
            installed = self.program.stat().st_mtime
        except OSError:
            return False
        return installed > began

    def _link(self) -> None:
        link = self.layout.link
        if not os.path.lexists(link):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(self.program)
            self.say(f"{link}: leads to {self.program}")

    def _pool(
        self,
        client: Client,
        config: Config,
        kinds: Collection[str],
        pool: str,
        nodes: int,
        within_s: float,
    ) -> dict[str, Any]:
        """Ask for a pool unless it is there, and wait until it is whole."""
        known = [one["name"] for one in client.pools() if one["status"] != "destroyed"]
        if pool in known:
            self.say(f"pool {pool}: is there, and stays as it is")
            return client.pool(pool)
        names = [name for name, one in config.providers.items() if not kinds or one.type in kinds]
        spec = PoolSpec.model_validate({"provider": names, "nodes": nodes})
        request = PoolRequested(pool=pool, spec=spec, ready_within_s=within_s)
        try:
            done = client.wait(client.submit(request).request_id, within_s)
        except TimedOut as error:
            text = f"the service runs, but pool {pool} is not whole after {within_s:g} s"
            raise SetupError(f"{text}: everpool explain {pool}") from error
        if done.status != "success":
            raise SetupError(f"the service runs, but pool {pool} was not made: {done.error or done.status}")
        return client.pool(pool)

    # --- uninstall --------------------------------------------------------------------------------

    def uninstall(self, *, force: bool = False, purge: bool = False) -> dict[str, Any]:
        """Stop the daemon and remove the unit; with `purge` the state too. Says what is left.

        Raises:
            SetupError: machines live (with `purge` even with `force`: only the state knows them).
        """
        living = self._living()
        if living == NO_OF_LIVING and (purge or not force):
            raise SetupError(
                "it can't be seen whether machines live: start the service, or use --force", wrong=True
            )
        if living > 0 and (purge or not force):
            how = (
                ""
                if purge
                else ", or use --force: they run on, and cost, until their dead-man leases are over"
            )
            raise SetupError(
                f"{living} machines live: end their pools first (everpool down POOL){how}", wrong=True
            )
        self._systemctl("disable", "--now", UNIT, may_fail=True)
        for path in [self.layout.unit, *(self.layout.drop_ins / name for name in DROP_INS.values())]:
            if path.exists():
                path.unlink()
                self.say(f"{path}: removed")
        with suppress(OSError):  # drop-ins of the user's own are left in it
            self.layout.drop_ins.rmdir()
        link = self.layout.link
        if link.is_symlink() and Path(os.readlink(link)) == self.program:
            link.unlink()
        self._systemctl("daemon-reload")
        self._systemctl("reset-failed", UNIT, may_fail=True)
        if purge:
            self._purge()
        left = [str(path) for path in self._left()]
        for place in left:
            self.say(f"{place}: is left")
        return {"living": max(living, 0), "left": left}

    def _living(self) -> int:
        """Machines that live, as the daemon or its journal knows; NO_OF_LIVING when neither can be asked."""
        if not any(path.exists() for path in (*self.layout.state, self.layout.unit)):
            return 0
        place = self._state()
        sockets = [self.layout.socket]
        with suppress(OSError, ConfigError):
            config = parse(self.layout.config.read_text(), str(self.layout.config))
            sockets.insert(0, config.daemon.socket_path)
            place = config.daemon.state_dir if config.daemon.state_dir.exists() else place
        for socket in sockets:
            with Client(socket) as client, suppress(EverpoolError):
                return len(client.instances())
        journal = StateDirectory(place).journal
        if not journal.exists():
            return 0
        try:
            reader = Reader(journal)
            try:
                return sum(row.kind == "instance" for row in reader.load_states(living_only=True))
            finally:
                reader.close()
        except (JournalError, OSError):
            return NO_OF_LIVING

    def _state(self) -> Path:
        private, public = self.layout.state
        return private if private.exists() else public

    def _purge(self) -> None:
        for path in self.layout.state:
            if path.is_symlink():
                path.unlink()
            elif path.exists():
                shutil.rmtree(path)
                self.say(f"{path}: removed")
        if _has_user(USER):
            self.run("userdel", USER)
        for group in (GROUP, USER):
            if _has_group(group):
                self.run("groupdel", group)

    def _left(self) -> Iterator[Path]:
        for path in (
            self._state(),
            self.layout.config.parent,
            self.layout.drop_ins,
            self.program.parent.parent,
        ):
            if path.exists():
                yield path

    # --- status -----------------------------------------------------------------------------------

    def show(self) -> dict[str, str]:
        """What systemd knows of the unit."""
        done = self.run("systemctl", "show", UNIT, f"--property={','.join(SHOWN)}")
        pairs = (line.partition("=") for line in done.out.splitlines())
        return {name: value for name, _, value in pairs if name in SHOWN}

    def _systemctl(self, *arguments: str, may_fail: bool = False) -> None:
        done = self.run("systemctl", *arguments)
        if done.code and not may_fail:
            raise SetupError(
                f"systemctl {' '.join(arguments)} failed", [*done.out.splitlines(), *self._journal()]
            )

    def _journal(self) -> list[str]:
        said = self.run(
            "journalctl", "--unit", UNIT, "--lines", str(LOG_LINES), "--no-pager", "--output", "cat"
        )
        return said.out.splitlines() if said.code == 0 else []


def _has_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
