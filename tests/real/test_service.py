"""The service of systemd, from the install page to the letter, in a Debian that has a systemd of its own."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from controller.service.files import DROP_INS, UNIT
from tests.controller.security.pki import Authority
from tests.real.booted import PAGE, Booted, Steps, block, booted, lacking, wheelhouse
from tests.real.engines import RealEngine, started
from tests.real.rig import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

COMMANDS_MAX = 4
EXPOSURE_MAX = 1.5
SITE = "/opt/everpool/lib/python3*/site-packages"
BEAT = "while :; do date +%s%N > /tmp/beat; sleep 0.1; done"
# What providers over the network need of the sandbox: keys, ssh both ways, TLS, names.
PROBE = """
import asyncio, asyncssh, ssl
async def answer(process):
    process.stdout.write("heard")
    process.exit(0)
class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False
async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen("127.0.0.1", 0, server_host_keys=[key], process_factory=answer, server_factory=Server)
    known = ([key.convert_to_public()], [], [])
    async with asyncssh.connect("127.0.0.1", server.get_port(), known_hosts=known, config=None, username="me") as one:
        assert (await one.run("x")).stdout == "heard"
    ssl.create_default_context()
    print("probe: ok")
asyncio.run(main())
"""  # noqa: E501
STICK = """
import signal, sys, time
if "serve" in sys.orig_argv:
    signal.signal(signal.SIGUSR2, lambda *_: time.sleep(3600))
"""
HARDENED = """
[daemon]
socket = "/run/everpool/api.sock"
socket_mode = "0660"

[providers.sim]
type = "simulated"
boot_delay = { least_s = 0 }

[providers.vast]
type = "vastai"
api_key = { credential = "everpool_vast.key" }

[providers.amazon]
type = "aws"
access_key_id = { credential = "everpool_aws.id" }
secret_access_key = { credential = "everpool_aws.secret" }

[providers.google]
type = "gcp"
project = "everpool-test"
zones = ["us-central1-a"]
key = { credential = "everpool_google.json" }
"""
# What their clients say when all works but the network, which is not there.
NO_NETWORK = r"(?i)connect|resolution|resolve|name or service not known"
NO_SANDBOX = r"(?i)import|module|memory|permitted|permission|ctypes|cffi|libffi|not read|systemd"
ENGINE_SOCKET = "/srv/engine.sock"
TLS = """
listen = "127.0.0.1:7443"

[daemon.tls]
certificate = { file = "/etc/everpool/tls.crt" }
key = { file = "/etc/everpool/tls.key" }
"""
SHOWN = "python3 -c 'import ssl; print(ssl.get_server_certificate((\"127.0.0.1\", 7443)))'"


def every_day() -> dict[str, str]:
    """The commands of the page's table, by what systemctl is told to do."""
    commands = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.M)
    assert all(command.startswith(("systemctl", "journalctl")) for command in commands)
    return {command.split()[1].strip("-"): command for command in commands}


@pytest.fixture(scope="module")
def system() -> Iterator[Booted]:
    """A Debian that runs; what the page's commands fetch is at hand there."""
    with tempfile.TemporaryDirectory(prefix="everpool-", ignore_cleanup_errors=True) as directory:
        docker = started("docker")
        binds = {docker.socket: ENGINE_SOCKET} if isinstance(docker, RealEngine) else {}
        with booted(Path(directory), binds) as system:
            version = system.sh("python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'").strip()
            if tuple(map(int, version.split("."))) < (3, 11):
                lacking(f"this Debian has Python {version} only")
            wheels = wheelhouse(version)
            shutil.copytree(wheels, system.root / "srv/wheels")
            for wheel in wheels.glob("everpool-*.whl"):
                shutil.copy(wheel, system.root / "root")
            system.environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/srv/wheels"}
            yield system


def test_service(system: Booted) -> None:
    steps = Steps()
    try:
        with_local(system, steps)
        hardened(system, steps)
    except BaseException:
        print(system.sh("journalctl --no-pager --output cat --lines 150 --unit everpool", ok=False))  # noqa: T201
        raise
    finally:
        tell(steps)


def with_local(system: Booted, steps: Steps) -> None:
    """From nothing to a pool, and all that befalls it."""
    commands = block("install")
    assert len(commands) <= COMMANDS_MAX
    for command in commands:
        with steps.step(command):
            system.sh(command)
    with steps.step("look"):
        said = [system.sh(command) for command in block("look")]
        assert "2 of 2 nodes ready" in said[0] and said[2] == "hello\n" and "pool_ready" in said[4]
    with steps.step("again: nothing changes"):
        before = main_pid(system)
        system.sh(commands[-1])
        assert main_pid(system) == before

    task = system.sh(f"everpool run first --detach --shell -- '{BEAT}'").strip()
    until(lambda: "running" in system.sh(f"everpool ps tasks | grep {task}"), "the task runs")
    first = nodes(system)
    daily = every_day()
    with steps.step("every day: looks"):
        assert "2 of 2 nodes ready" in system.sh(daily.pop("status"))
        assert "pool_ready" in system.sh(f"{daily.pop('u')} --no-pager")
    with steps.step("kill -9: back, adopted, the task goes on"):
        system.sh(daily.pop("kill"))
        until_other(system, before)
        assert_goes_on(system, task, first)
    with steps.step("a loop that is stuck: ended by the watchdog, back, adopted"):
        watchdog(system)
        assert_goes_on(system, task, first)
    with steps.step("reload: the plan in the journal, applied; a wrong config changes nothing"):
        reload(system, daily.pop("reload"))
    with steps.step("restart: the task goes on"):
        system.sh(daily.pop("restart"))
        assert_goes_on(system, task, first)
    with steps.step("stop: the task goes on; start: adopted"):
        system.sh(daily.pop("stop"))
        assert_beats(system)
        system.sh("systemctl start everpool")
        assert_goes_on(system, task, first)
    assert not daily, "the page's table has more commands"
    with steps.step("journalctl by fields"):
        fields(system, first)
    with steps.step("upgrade"):
        before = main_pid(system)
        for command in block("upgrade"):
            system.sh(command)
        after = main_pid(system)
        assert after != before  # of the same version, but built anew
        assert_goes_on(system, task, first)
        system.sh("everpool service install")
        assert main_pid(system) == after  # nothing is new
    with steps.step("a unit that was edited is not overwritten"):
        system.sh(f"echo '# mine' >> /etc/systemd/system/{UNIT}")
        refused = system.ran("everpool service install")
        assert refused.returncode == 5 and "was edited" in refused.stdout
        system.sh("everpool service install --force")
    with steps.step("uninstall: refused while machines live, then nothing is left"):
        refused = system.ran("everpool service uninstall --purge")
        assert refused.returncode == 5 and "machines live" in refused.stdout
        system.sh("everpool down first && everpool service uninstall --purge")
        assert_gone(system)


def hardened(system: Booted, steps: Steps) -> None:
    """The unit without `local`: a user that lives with the daemon, and the tight sandbox."""
    (system.root / "etc/everpool/config.toml").unlink()
    (system.root / "root/my.toml").write_text(HARDENED)
    (system.root / "srv/probe.py").write_text(PROBE)
    drop_in = "[Service]\nExecStartPre=/opt/everpool/bin/python /srv/probe.py\n"
    system.sh(f"mkdir -p /etc/systemd/system/{UNIT}.d")
    (system.root / f"etc/systemd/system/{UNIT}.d/probe.conf").write_text(drop_in)
    for command in block("secret"):
        system.sh(command)
    secrets = {"vast.key": "sesame-opens-it\n", "aws.id": "AKIAIOSFODNN7EXAMPLE", "aws.secret": "sesame" * 6}
    for name, secret in (secrets | {"google.json": account()}).items():
        (system.root / "etc/everpool/credentials" / name).write_text(secret)
    with steps.step("hardened: the extras"):
        for command in block("extras"):
            system.sh(command)
    with steps.step("hardened: install with a config and secrets"):
        for command in block("config"):
            system.sh(command)
        system.sh("everpool up first --provider sim")
        said = until_said(system, "probe: ok")
        assert "sesame" not in said
        assert "DynamicUser=yes" in system.sh(f"systemctl show {UNIT} --property DynamicUser")
        until(
            lambda: "1 of 1 nodes ready" in system.sh("everpool service status", ok=False),
            "the pool is whole",
        )
    with steps.step("hardened: clients of vendors work, but for the network"):
        for name in ("vast", "amazon", "google"):
            said = system.sh(f"everpool doctor {name}", ok=False)
            assert re.search(NO_NETWORK, said) and not re.search(NO_SANDBOX, said), said
    with steps.step("hardened: a certificate that the service's user may read, and the next"):
        certificates(system)
    with steps.step("hardened: a container, over the engine's socket"):
        containers(system)
    with steps.step("hardened: systemctl kill -s KILL, back"):
        before = main_pid(system)
        system.sh("systemctl kill -s KILL everpool")
        until_other(system, before)  # what was simulated is gone with it
    with steps.step("hardened: who may use the socket"):
        system.sh("useradd alice && useradd bob")
        for command in block("operators"):
            system.sh(command)
        assert "first" in system.sh("runuser -u alice -- everpool ps nodes")
        assert system.ran("runuser -u bob -- everpool ps nodes").returncode != 0
    said = system.sh(f"systemd-analyze security --no-pager {UNIT} | tail -1")
    with steps.step(f"systemd-analyze security: {said.split(':', 1)[1].strip()}"):
        figure = re.search(r": (\d+\.\d)", said)
        assert figure is not None and float(figure[1]) <= EXPOSURE_MAX, said
    with steps.step("uninstall, by the page"):
        for command in block("uninstall"):
            system.sh(command)
        assert_gone(system)


def account() -> str:
    """The key file of a service account that nobody has."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "everpool-test",
            "private_key_id": "1",
            "private_key": key.private_bytes(serialization.Encoding.PEM, form, plain).decode(),
            "client_email": "nobody@everpool-test.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": "https://oauth2.googleapis.com/token",
        }
    )


def certificates(system: Booted) -> None:
    """TLS with a pair in files, as the page says, and another pair without a restart."""
    authority = Authority(system.root / "etc/everpool")
    first = authority.issue().decode().strip()
    config = system.root / "etc/everpool/config.toml"
    text = config.read_text()
    config.write_text(text.replace('socket_mode = "0660"\n', f'socket_mode = "0660"{TLS}'))
    for command in block("tls"):
        system.sh(command)
    system.sh("systemctl restart everpool")
    until(lambda: system.sh(SHOWN, ok=False).strip() == first, "the certificate is shown")
    before, second = main_pid(system), authority.issue().decode().strip()
    system.sh("systemctl reload everpool")
    until(lambda: system.sh(SHOWN, ok=False).strip() == second, "the next one is")
    assert main_pid(system) == before


def containers(system: Booted) -> None:
    """A pool of containers, of an engine outside whose socket belongs to the group docker."""
    docker = started("docker")
    if not isinstance(docker, RealEngine):
        return
    system.sh(f"groupadd --system docker && chgrp docker {ENGINE_SOCKET} && chmod 660 {ENGINE_SOCKET}")
    with (system.root / "etc/everpool/config.toml").open("a") as config:
        config.write("\n" + docker.toml("box", socket=ENGINE_SOCKET))
    for command in block("container"):
        system.sh(command)
    assert "docker" in system.sh(f"systemctl show {UNIT} --property SupplementaryGroups")
    system.sh("everpool up boxes --provider box")
    assert system.sh("everpool run boxes -- echo inside") == "inside\n"
    assert len(docker.containers()) == 1
    system.sh("everpool down boxes")
    assert docker.containers() == []


def watchdog(system: Booted) -> None:
    """Block the event loop of the running daemon, by a module that only this test puts there."""
    system.sh(f"cat > $(echo {SITE})/stick.py <<'END'\n{STICK}END")
    system.sh(f"echo 'import stick' > $(echo {SITE})/stick.pth")
    system.sh(f"mkdir -p /run/systemd/system/{UNIT}.d")
    short = "[Service]\\nWatchdogSec=3\\n"
    system.sh(f"printf '{short}' > /run/systemd/system/{UNIT}.d/short.conf && systemctl daemon-reload")
    system.sh("systemctl restart everpool")
    before = main_pid(system)
    system.sh("systemctl kill --kill-whom=main -s USR2 everpool")
    until_other(system, before)
    until_said(system, "Failed with result 'watchdog'")
    until_said(system, r'stick\.py", line 4')  # where it hung
    system.sh(f"rm $(echo {SITE})/stick.* /run/systemd/system/{UNIT}.d/short.conf && systemctl daemon-reload")
    system.sh("systemctl restart everpool")


def reload(system: Booted, command: str) -> None:
    """Change the config, well and badly."""
    config = system.root / "etc/everpool/config.toml"
    text = config.read_text()
    config.write_text(f'{text}\n[pools.second]\nprovider = "local"\nnodes = 1\n')
    system.sh(command)
    until_said(system, r"pools\.second.*made")
    until(lambda: "second" in system.sh("everpool ps nodes"), "the new pool is there")
    config.write_text(f'{text}\n[pools.second]\nprovder = "local"\n')
    refused = system.ran("systemctl reload everpool")
    assert refused.returncode != 0
    until_said(system, "provder")
    assert "active" == system.sh("systemctl is-active everpool").strip()
    config.write_text(f"{text}\n[pools.second]\nremove = true\n")
    system.sh("systemctl reload everpool")
    until(lambda: "second" not in system.sh("everpool ps nodes"), "the pool is gone")
    config.write_text(text)
    system.sh("systemctl reload everpool")


def until_said(system: Booted, pattern: str) -> str:
    """Wait until the journal has got around to it; all of the unit's entries."""

    def said() -> str | None:
        text = system.sh(f"journalctl --no-pager --output cat --unit {UNIT}")
        return text if re.search(pattern, text) else None

    return until(said, f"the journal has {pattern}", 20)


def fields(system: Booted, first: dict[str, str]) -> None:
    """Entries are found by what they are about."""
    entries = journal(system, "EVERPOOL_POOL=first")
    assert {one["EVERPOOL_POOL"] for one in entries} == {"first"}
    kinds = {one["EVERPOOL_EVENT"] for one in entries}
    assert {"instance_launched", "instance_bootstrapped", "pool_ready"} <= kinds
    assert {one["SYSLOG_IDENTIFIER"] for one in entries} == {"everpool"}
    instance = first["0"]
    about = journal(system, f"EVERPOOL_INSTANCE={instance}")
    assert {one["EVERPOOL_NODE"] for one in about if "EVERPOOL_NODE" in one} == {"0"}
    assert {one["PRIORITY"] for one in about} <= {"3", "4", "6"}


def journal(system: Booted, match: str) -> list[dict[str, str]]:
    """Entries of the journal."""
    return [json.loads(line) for line in system.sh(f"journalctl --output json {match}").splitlines()]


def nodes(system: Booted) -> dict[str, str]:
    """The machine of each node of the first pool."""
    found = json.loads(system.sh("everpool --json ps nodes"))
    return {str(one["node"]): one["instance_id"] for one in found if one["pool"] == "first"}


def main_pid(system: Booted) -> int:
    """The daemon's pid."""
    return int(system.sh(f"systemctl show --property MainPID --value {UNIT}"))


def until_other(system: Booted, before: int) -> None:
    """Wait until another daemon is ready."""

    def other() -> bool:
        shown = system.sh(f"systemctl show --property MainPID,ActiveState {UNIT}")
        return "ActiveState=active" in shown and f"MainPID={before}\n" not in shown

    until(other, "another daemon runs", 60)


def assert_goes_on(system: Booted, task: str, first: dict[str, str]) -> None:
    """The same machines, and the same attempt of the task, which does something."""
    until(lambda: "2 of 2 nodes ready" in system.sh("everpool service status", ok=False), "the pool is whole")
    assert nodes(system) == first
    view = next(one for one in json.loads(system.sh("everpool --json ps tasks")) if one["id"] == task)
    assert (view["status"], view["attempt"]) == ("running", 1)
    assert_beats(system)


def assert_beats(system: Booted) -> None:
    """The task does something."""
    before = system.sh("cat /tmp/beat")
    until(lambda: system.sh("cat /tmp/beat") != before, "the task goes on", 20)


def assert_gone(system: Booted) -> None:
    """Nothing of the service is left: unit, state, user, processes."""
    there = [f"/etc/systemd/system/{UNIT}", "/var/lib/everpool", "/var/lib/private/everpool", "/run/everpool"]
    there += [f"/etc/systemd/system/{UNIT}.d/{name}" for name in DROP_INS.values()]
    assert system.sh(f"ls -d {' '.join(there)} 2>/dev/null", ok=False) == ""
    assert system.sh("getent passwd everpool; getent group everpool-operators", ok=False) == ""
    running = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'opt/everpool/bin/[p]ython.*agent'"
    until(lambda: system.sh(running, ok=False).strip() == "0", "no machine is left", 20)


def tell(steps: Steps) -> None:
    """Print the steps with their times, and keep them where artefacts are kept."""
    print("\n" + steps.table())  # noqa: T201
    named = os.environ.get("EVERPOOL_ARTEFACTS")
    if named:
        Path(named).mkdir(parents=True, exist_ok=True)
        Path(named, "service-steps.txt").write_text(steps.table())
