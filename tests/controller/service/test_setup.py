"""Putting the service in its place: files, refusals, what is run. With a systemd: in tests/real."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.config import parse
from controller.service import setup
from controller.service.files import DROP_INS, UNIT, Layout, first_config, put, shipped, unit
from controller.service.setup import Ran, Service, SetupError

ROOT = Path(__file__).parents[3]
EXPOSURE_MAX = 1.5


class System:
    """Commands of the system that do nothing, and are remembered."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.answers: dict[str, Ran] = {}

    def __call__(self, *command: str, given: str = "") -> Ran:
        line = " ".join(command)
        self.ran.append(line)
        return next((ran for start, ran in self.answers.items() if line.startswith(start)), Ran(0, ""))


@pytest.fixture
def system() -> System:
    return System()


@pytest.fixture
def service(tmp_path: Path, system: System, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr(setup, "HIDDEN", ("/home",))
    program = tmp_path / "env/bin/everpool"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    for place in (tmp_path, *tmp_path.parents):
        if not place.stat().st_mode & 0o001:
            place.chmod(0o711)
    return Service(program, Layout(tmp_path), system)


def refused(what: Callable[[], object]) -> SetupError:
    with pytest.raises(SetupError) as caught:
        what()
    return caught.value


def test_what_ships_in_deploy_is_what_the_wheel_has() -> None:
    for name, place in ((UNIT, UNIT), *((one, f"{UNIT}.d/{one}") for one in DROP_INS.values())):
        assert (ROOT / "deploy" / place).read_text() == shipped(name)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_the_sandbox_is_tight(tmp_path: Path) -> None:
    place = tmp_path / UNIT
    place.write_text(unit(Path("/bin/true")))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(place)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    figure = re.search(r"exposure level for .*: (\d+\.\d)", done.stdout)
    assert figure is not None and float(figure[1]) <= EXPOSURE_MAX, done.stdout


def test_a_first_config_is_one_that_the_daemon_takes() -> None:
    config = parse(first_config(Path("/run/everpool/api.sock"), ["local", "container"]), "x")
    assert {name: one.type for name, one in config.providers.items()} == {
        "container": "container",
        "local": "local",
    }
    assert (str(config.daemon.socket_path), config.daemon.socket_permissions) == (
        "/run/everpool/api.sock",
        0o660,
    )


def test_a_file_that_was_edited_stays_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "units" / "a.service"
    assert put(path, "one\n") == "new"
    assert put(path, "one\n") == "same"
    assert put(path, "two\n") == "changed"
    path.write_text(path.read_text() + "mine\n")
    assert put(path, "two\n") == "edited"
    assert path.read_text().endswith("two\nmine\n")
    assert put(path, "two\n", force=True) == "changed"


def test_files_are_put_as_the_config_needs_them(service: Service, system: System) -> None:
    layout = service.layout
    config = layout.config
    config.parent.mkdir(parents=True)
    config.write_text('[providers.here]\ntype = "local"\n')
    system.answers["systemctl enable"] = Ran(1, "no")  # so far, and no further
    error = refused(service.install)
    assert str(error) == f"systemctl enable {UNIT} failed" and not error.wrong
    assert f"ExecStart={service.program} serve\n" in layout.unit.read_text()
    assert (layout.drop_ins / "local.conf").exists()
    assert not (layout.drop_ins / "container.conf").exists()
    assert layout.credentials.is_dir()
    assert system.ran[:2] == ["systemd-sysusers -", "systemctl daemon-reload"]
    assert config.read_text() == '[providers.here]\ntype = "local"\n'


def test_what_can_not_be_is_refused_before_anything_is_done(service: Service, system: System) -> None:
    config = service.layout.config
    assert "there is no" in str(refused(service.install))
    config.parent.mkdir(parents=True)
    config.write_text('[providers.a]\ntype = "locl"\n')
    error = refused(service.install)
    assert error.wrong and "locl" in error.detail[0]
    config.write_text('[providers.a]\ntype = "simulated"\n')
    assert "no provider of type local" in str(refused(lambda: service.install(providers=["local"])))
    other = config.with_name("other.toml")
    other.write_text("")
    assert "is not the same as" in str(refused(lambda: service.install(source=other)))
    service.program.chmod(0o644)
    assert "is not there" in str(refused(service.install))
    assert (system.ran, service.layout.unit.exists()) == ([], False)


def test_an_environment_that_the_service_can_not_see_is_refused(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.program.parent.chmod(0o700)
    assert "may not go into" in str(refused(service.install))
    monkeypatch.setattr(setup, "HIDDEN", (str(service.layout.root),))
    assert "/opt/everpool" in str(refused(service.install))


def test_nothing_installed_is_uninstalled_without_a_word(service: Service) -> None:
    assert service.uninstall(purge=True)["living"] == 0


def test_state_that_can_not_be_read_is_not_purged(service: Service) -> None:
    state = service.layout.state[1]
    state.mkdir(parents=True)
    (state / "journal.sqlite3").write_text("not a journal")
    assert "can't be seen" in str(refused(lambda: service.uninstall(purge=True, force=True)))
    assert "can't be seen" in str(refused(service.uninstall))
    assert service.uninstall(force=True)["left"][0] == str(state)
