"""The docs say what is: configs in them are sound, links lead somewhere, and every command in them is run."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.config import check
from tests.controller.cli.running import ROOT, Face, daemon, processes_of
from tests.deploy.pages import PAGES

DOCS = ROOT / "deploy" / "docs"
ALL = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
# These are run to the letter elsewhere: in a booted systemd, and as the first pool of a new user.
ELSEWHERE = {"install.md", "README.md"}
NEEDS_A_POOL = {"alerts.md", "metrics.md"}  # the one that is in trouble there is called `main`


def blocks(page: Path, language: str) -> list[str]:
    """A page's code blocks of a language, in order. What follows the language says how they are run."""
    found = re.findall(rf"^```{language}( [^\n]*)?\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for _, text in found]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_made_of_the_code_are_up_to_date(path: Path) -> None:
    assert path.read_text() == PAGES[path](), "run: python -m tests.deploy.pages"


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_every_config_is_sound(page: Path) -> None:
    for text in blocks(page, "toml"):
        if page.name == "README.md" and "[providers." not in text:
            continue  # goes with the block before it: see the tests of the README
        assert check(text, page.name) == [], text


def links(page: Path) -> Iterator[tuple[str, str]]:
    """(file, anchor) of each link within the project."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(page: Path) -> set[str]:
    """What headings can be linked to, as GitHub names them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {path}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name}: {path}#{anchor}"


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / path).resolve() for path, _ in links(ROOT / "README.md")}
    assert {page for page in ALL if page.parent == DOCS} <= linked


def pages_with_commands() -> list[Path]:
    return [page for page in ALL if page.name not in ELSEWHERE and blocks(page, "(?:sh|python)")]


@pytest.mark.real
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", pages_with_commands(), ids=lambda page: page.name)
def test_every_command_of_a_page_runs(page: Path, face: Face, tmp_path: Path) -> None:
    """In order, in one folder, against one daemon on `local`, whose config is $EVERPOOL_CONFIG."""
    home = tmp_path
    (home / "deploy").symlink_to(ROOT / "deploy")
    programs = face.directory / "bin"
    programs.mkdir()
    for name, command in (("everpool", '-m controller "$@"'), ("python3", '"$@"')):
        wrapper = programs / name
        wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command}\n')
        wrapper.chmod(0o755)
    port = free_port()
    listen = f'listen = "127.0.0.1:{port}"\n'
    config = face.directory / "everpool.toml"
    with daemon(face, f'{listen}[providers.local]\ntype = "local"\n'):
        env = face.env | {
            "PATH": f"{programs}:{face.env['PATH']}",
            "EVERPOOL_CONFIG": str(config),
            "DOCS": str(DOCS),
            "HOME": str(home),
        }
        if page.name in NEEDS_A_POOL:
            assert face("up", "main", "--nodes", "1").code == 0
        for language, text in scripts(page):
            shell = ["sh", "-eu"] if language == "sh" else [str(programs / "python3")]
            done = subprocess.run(
                [*shell, "-c", text.replace("127.0.0.1:7070", f"127.0.0.1:{port}")],
                env=env,
                cwd=home,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr
            key = home / "secrets.key"
            if key.exists() and "secrets_key" not in config.read_text():  # as the page says below its command
                named = f'secrets_key = {{ file = "{key}" }}\n'
                config.write_text(config.read_text().replace(listen, listen + named))
        end_restored(face, home)


def end_restored(face: Face, home: Path) -> None:
    """End the daemon that a page started from a backup, with what it launched."""
    log, socket_ = home / "restored.log", str(home / "restored" / "api.sock")
    try:
        if log.exists():
            assert "ready" in log.read_text() and "Traceback" not in log.read_text(), log.read_text()
            for pool in face("--socket", socket_, "--json", "ps").json:
                assert face("--socket", socket_, "down", pool["name"]).code == 0
    finally:
        for pid in processes_of(home):
            os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def scripts(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each block that is run, in the order of the page."""
    found = re.findall(r"^```(sh|python)( [^\n]*)?\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return list(dict.fromkeys((language, text) for language, _, text in found))  # once each


COMMAND = r"^\W*(?:everpool|curl|systemctl|journalctl|usermod|podman|docker|pip|/opt/everpool/\S+) "


def test_no_command_is_shown_that_nobody_runs() -> None:
    """Blocks without a language, or of another one, hold output, not commands; nothing else is a block."""
    for page in ALL:
        text = page.read_text()
        for language, block in re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if language not in ("sh", "python"):
                assert not re.search(COMMAND, block, re.MULTILINE), page.name
        rest = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r"^\n(?: {4}|\t)\S.*$", rest, re.MULTILINE), (
            f"{page.name}: fence what is indented"
        )
        if page.name not in ELSEWHERE:  # of these, tests run what is in tables too
            in_tables = [
                cell for line in rest.splitlines() if line.startswith("|") for cell in line.split("|")
            ]
            assert not [cell for cell in in_tables if re.match(COMMAND, cell.strip())], page.name


def test_each_block_of_the_install_page_is_run_by_a_test() -> None:
    tests = ("test_service.py", "test_containerfile.py", "booted.py")
    sources = [(ROOT / "tests/real" / name).read_text() for name in tests]
    for name in re.findall(r"^```sh ?(.*)$", (DOCS / "install.md").read_text(), re.MULTILINE):
        assert name and any(f'block("{name}")' in source for source in sources), name
