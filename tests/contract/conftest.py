"""The adapters that must keep the contract. A new one is one more `param`."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.aws import AwsBatchHarness, AwsHarness
from tests.contract.container import ContainerHarness, PodmanHarness
from tests.contract.gcp import GcpHarness
from tests.contract.harness import Harness, Kind, LocalHarness
from tests.contract.vastai import VastaiHarness


@pytest.fixture(
    params=[
        pytest.param(LocalHarness, marks=pytest.mark.real, id="local"),
        pytest.param(ContainerHarness, marks=pytest.mark.real, id="docker"),
        pytest.param(PodmanHarness, marks=pytest.mark.real, id="podman"),
        pytest.param(GcpHarness, marks=pytest.mark.real, id="gcp"),
        pytest.param(AwsHarness, marks=pytest.mark.real, id="aws"),
        pytest.param(AwsBatchHarness, marks=pytest.mark.real, id="aws-batch"),
        pytest.param(VastaiHarness, marks=pytest.mark.real, id="vastai"),
    ]
)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def anyio_backend(kind: Kind) -> Any:
    return kind.backend


@pytest.fixture
async def harness(kind: Kind, tmp_path: Path, anyio_backend: Any) -> AsyncIterator[Harness]:
    async with kind.open(tmp_path) as opened:
        yield opened
