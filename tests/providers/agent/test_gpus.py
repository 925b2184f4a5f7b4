"""What nvidia-smi tells, and one that is broken, hangs, or is not there."""

import os
from pathlib import Path

import pytest

from providers.agent import agent as a
from tests.providers.agent.rig import AGENT, Rig, alive, start, until

TWO = "0, 45, 1024, 16384, 60, 70.12\n1, 0, 0, 16384, [N/A], [Not Supported]\n"


def test_each_gpu_has_its_values_in_base_units() -> None:
    assert a.parse_gpus(TWO) == {
        "gpu0_utilization_percent": 45,
        "gpu0_memory_used_bytes": 1024 * 2**20,
        "gpu0_memory_total_bytes": 16384 * 2**20,
        "gpu0_temperature_celsius": 60,
        "gpu0_power_watts": 70.12,
        "gpu1_utilization_percent": 0,
        "gpu1_memory_used_bytes": 0,
        "gpu1_memory_total_bytes": 16384 * 2**20,
    }


@pytest.mark.parametrize(
    "text", ["", "\n", "NVIDIA-SMI has failed", "x, 1, 2", "0, nan, inf, [N/A]", "1e2, 5"]
)
def test_what_is_no_value_is_left_out(text: str) -> None:
    assert a.parse_gpus(text) == {}


def test_no_more_gpus_than_a_machine_has() -> None:
    many = "".join(f"{number}, 1, 1, 1, 1, 1\n" for number in range(1000))
    assert len(a.parse_gpus(many)) == 16 * 5


@pytest.fixture
def smi(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an nvidia-smi is looked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "nvidia-smi"


def written(smi: Path, script: str) -> None:
    part = smi.with_name("part")
    part.write_text(f"#!/bin/sh\necho run >> {smi}.runs\n{script}\n")
    part.chmod(0o755)
    part.rename(smi)


def runs(smi: Path) -> int:
    log = Path(f"{smi}.runs")
    return len(log.read_text().splitlines()) if log.exists() else 0


def hasty(rig: Rig, tmp_path: Path, **constants: float) -> None:
    source = AGENT.read_text()
    for name, value in constants.items():
        assert f"\n{name} = " in source
        source = source.replace(f"\n{name} = ", f"\n{name} = {value}\n_WAS_{name} = ")
    rig.command_file = tmp_path / "hasty.py"
    rig.command_file.write_text(source)


@pytest.mark.real
def test_gpus_are_measured_with_the_machine(rig: Rig, smi: Path) -> None:
    written(smi, f"echo \"$@\" > {smi}.args; printf '{TWO}'")
    stream = rig.attach(metrics_every_s=0.1)
    report = stream.until(lambda m: m["t"] == "metrics" and "gpu0_power_watts" in m["values"])
    assert report["values"] == a.parse_gpus(TWO)
    assert "task" not in report or report["task"] == ""
    stream.until(lambda m: m["t"] == "metrics" and "cpu_percent" in m["values"])
    assert Path(f"{smi}.args").read_text().split() == [
        "--query-gpu=index,utilization.gpu,memory.used,memory.total,temperature.gpu,power.draw",
        "--format=csv,noheader,nounits",
    ]


@pytest.mark.real
def test_gpus_that_appear_later_are_found(rig: Rig, smi: Path) -> None:
    stream = rig.attach(metrics_every_s=0.1)
    stream.until(lambda m: m["t"] == "metrics" and "cpu_percent" in m["values"])
    assert not [name for m in stream.of("metrics") for name in m["values"] if name.startswith("gpu")]
    written(smi, f"printf '{TWO}'")  # a set-up brings the driver
    stream.until(lambda m: m["t"] == "metrics" and "gpu0_power_watts" in m["values"])


@pytest.mark.real
def test_one_that_hangs_delays_nothing_and_is_killed(rig: Rig, smi: Path, tmp_path: Path) -> None:
    written(smi, f"echo $$ >> {smi}.pids; exec sleep 1000")
    hasty(rig, tmp_path, GPU_S=0.5)
    stream = rig.attach(metrics_every_s=0.05)
    stream.say(start("t", "true"))
    assert stream.ended("t")["code"] == 0
    seen = 0
    while seen < 6:  # several reports while the first still hangs
        seen += len([m for m in stream.hear(10) if m["t"] == "metrics"])
    until(lambda: "it took too long; given up" in (rig.dir / "agent.log").read_text())
    assert runs(smi) == 3
    pids = [int(word) for word in Path(f"{smi}.pids").read_text().split()]
    until(lambda: not any(alive(pid) for pid in pids))
    heard = len(stream.of("metrics"))
    stream.until(lambda m: len(stream.of("metrics")) > heard + 5)
    assert runs(smi) == 3


@pytest.mark.real
@pytest.mark.parametrize(
    "script", ["echo 'NVIDIA-SMI has failed'; exit 9", "echo nonsense", "kill -9 $$", "printf '\\377\\000'"]
)
def test_one_that_is_broken_is_given_up_and_tried_again_much_later(
    rig: Rig, smi: Path, tmp_path: Path, script: str
) -> None:
    written(smi, script)
    hasty(rig, tmp_path, GPU_AGAIN_S=1.0)
    stream = rig.attach(metrics_every_s=0.02)
    until(lambda: "given up" in (rig.dir / "agent.log").read_text())
    assert runs(smi) == 3
    written(smi, f"printf '{TWO}'")
    stream.until(lambda m: m["t"] == "metrics" and "gpu0_power_watts" in m["values"])
    assert len((rig.dir / "agent.log").read_text().splitlines()) == 1


@pytest.mark.real
def test_one_that_can_not_be_run_is_no_trouble(rig: Rig, smi: Path) -> None:
    smi.write_text("#!/no/such/interpreter\n")
    smi.chmod(0o755)
    stream = rig.attach(metrics_every_s=0.05)
    stream.until(lambda m: len([1 for one in stream.of("metrics") if "cpu_percent" in one["values"]]) > 3)
    stream.say(start("t", "true"))
    assert stream.ended("t")["code"] == 0
