"""How a machine ends itself: by its own contract and key."""

import subprocess
import sys
from pathlib import Path

import pytest

from providers.vastai.end import end_command
from tests.fakes.serving import served
from tests.fakes.vastai.fake import FakeVastai


def run(url: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    command = end_command(url, sys.executable, pause_s=0)
    return subprocess.run(["/bin/sh", "-c", command], env=env, capture_output=True, timeout=60)


def test_it_destroys_its_contract_and_no_other() -> None:
    fake = FakeVastai()
    with served(fake) as url:
        mine, other = fake.orphan("o/p/0/1/1"), fake.orphan("o/p/1/1/1")
        key = fake.contract(mine).key
        assert run(url, CONTAINER_ID=other, CONTAINER_API_KEY=key).returncode != 0
        assert fake.alive() == [mine, other]
        assert run(url, CONTAINER_ID=mine, CONTAINER_API_KEY=key).returncode == 0
        assert fake.alive() == [other]
        assert (
            run(url, VAST_CONTAINERLABEL=f"C.{other}", CONTAINER_API_KEY=fake.contract(other).key).returncode
            == 0
        )
        assert fake.alive() == []
    assert fake.controls.violations == []


@pytest.mark.parametrize("failure", ["throttle", "fail_before", "cut_before", "fail_after"])
def test_it_asks_again(failure: str) -> None:
    fake = FakeVastai()
    with served(fake) as url:
        ref = fake.orphan("o/p/0/1/1")
        getattr(fake.controls, failure)("destroy", 2)
        assert run(url, CONTAINER_ID=ref, CONTAINER_API_KEY=fake.contract(ref).key).returncode == 0
        assert fake.alive() == []
    assert fake.controls.violations == []


def test_without_a_key_it_fails_and_says_so(tmp_path: Path) -> None:
    ran = run("http://127.0.0.1:9", CONTAINER_ID="7")
    assert ran.returncode != 0
    assert b"CONTAINER_API_KEY" in ran.stderr


def test_a_vendor_that_does_not_answer_is_a_failure() -> None:
    ran = run("http://127.0.0.1:9", CONTAINER_ID="7", CONTAINER_API_KEY="key")
    assert ran.returncode != 0
    assert b"not destroyed" in ran.stderr
