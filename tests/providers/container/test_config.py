"""What may be written in a container provider's table, and where its engine is looked for."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from providers.container.adapter import ContainerProvider
from providers.container.config import ContainerConfig
from providers.container.engine import candidates, found_socket, negotiated, version_of
from providers.errors import Fault, ProviderError
from providers.priced import offers_of

pytestmark = pytest.mark.anyio


def test_the_default_sells_one_kind_for_nothing() -> None:
    [offer] = offers_of(ContainerConfig().offers, "box")
    assert (offer.provider, offer.lifecycle, offer.micro_usd_per_hour) == ("box", "on_demand", 0)
    assert (offer.instance_type.vcpus, offer.instance_type.memory_gb) == (1, 1)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"ofers": []}, "ofers"),
        ({"offers": []}, "offers"),
        ({"offers": [{"zone": "a"}]}, "give a price"),
        ({"offers": [{"spot": 1}, {"on_demand": 2}]}, "same zone and instance_type"),
        ({"offers": [{"spot": 1, "vcpus": 0}]}, "vcpus"),
        ({"engine": "lxc"}, "engine"),
        ({"socket": "docker.sock"}, "absolute"),
        ({"image": "--privileged"}, "image"),
        ({"pull": "sometimes"}, "pull"),
        ({"network": "a b"}, "network"),
        ({"env": {"A-B": "x"}}, "env"),
        ({"volumes": [{"target": "data"}]}, "target"),
        ({"volumes": [{"target": "/"}]}, "target"),
        ({"volumes": [{"target": "/a", "source": "../x"}]}, "source"),
        ({"volumes": [{"target": "/a", "scope": "cluster"}]}, "needs a name"),
        ({"volumes": [{"target": "/a", "source": "/b", "scope": "cluster"}]}, "needs a name"),
        ({"volumes": [{"target": "/a"}, {"target": "/a"}]}, "same target"),
        ({"ulimits": {"nofile": {"soft": 2, "hard": 1}}}, "soft exceeds hard"),
        ({"registries": [{"server": "r", "username": "u", "password": "secret"}]}, "password"),
        ({"registries": [{"server": "http://r", "username": "u", "password": {"env": "X"}}]}, "server"),
        ({"machines_max": 1001}, "less than or equal to 1000"),
    ],
)
def test_what_makes_no_sense_is_refused_and_named(table: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ContainerConfig.model_validate(table)


def test_sockets_are_looked_for_where_engines_have_them() -> None:
    environment = {"DOCKER_HOST": "unix:///d/s", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert [str(path) for path in candidates("auto", environment)] == [
        "/d/s",
        "/var/run/docker.sock",
        "/run/user/7/docker.sock",
        "/run/podman/podman.sock",
        "/run/user/7/podman/podman.sock",
    ]
    assert [str(path) for path in candidates("podman", {})] == ["/run/podman/podman.sock"]
    assert [str(path) for path in candidates("docker", {"DOCKER_HOST": "tcp://h:1"})] == [
        "/var/run/docker.sock"
    ]


def test_a_socket_that_is_not_there_or_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="no container engine listens") as caught:
        found_socket(tmp_path / "none", "auto")
    assert caught.value.fault is Fault.NOT_SENT
    (tmp_path / "file").write_text("")
    with pytest.raises(ProviderError, match="is no socket"):
        found_socket(tmp_path / "file", "auto")


async def test_an_engine_that_is_elsewhere_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for elsewhere in ("tcp://box:2375", "ssh://me@box"):
        monkeypatch.setenv("DOCKER_HOST", elsewhere)
        with pytest.raises(ProviderError, match=f"DOCKER_HOST is '{elsewhere}'.*set `socket`") as caught:
            found_socket(None, "auto")
        assert caught.value.fault is Fault.REJECTED
        [line] = await ContainerProvider("box", ContainerConfig(), tmp_path, b"").check("o")
        assert (line.ok, elsewhere in line.detail, "`socket`" in line.mend) == (False, True, True)
        with pytest.raises(ProviderError, match="no container engine listens"):
            found_socket(tmp_path / "none", "auto")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}")
    with pytest.raises(ProviderError, match="is no socket"):
        found_socket(None, "auto")


@pytest.mark.parametrize(
    ("theirs", "lowest", "chosen"),
    [
        ((1, 41), (1, 12), (1, 41)),
        ((1, 40), (1, 24), (1, 40)),
        ((1, 52), (1, 44), (1, 47)),  # docker 29
        ((1, 47), (1, 47), (1, 47)),
    ],
)
def test_the_newest_version_that_both_know_is_spoken(
    theirs: tuple[int, int], lowest: tuple[int, int], chosen: tuple[int, int]
) -> None:
    assert negotiated(theirs, lowest) == chosen


@pytest.mark.parametrize(
    ("theirs", "lowest", "said"),
    [((1, 39), (1, 12), "use a newer engine"), ((1, 60), (1, 48), "use a newer everpool")],
)
def test_versions_that_do_not_meet_are_refused(
    theirs: tuple[int, int], lowest: tuple[int, int], said: str
) -> None:
    with pytest.raises(ProviderError, match=said) as caught:
        negotiated(theirs, lowest)
    assert caught.value.fault is Fault.REJECTED


def test_a_version_is_two_numbers() -> None:
    assert version_of("1.41") == (1, 41)
    assert [version_of(text) for text in ("", None, "1", "v1.41", "1.41.2", "x.y")] == [None] * 6
