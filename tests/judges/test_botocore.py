"""botocore's model of aws judges every call of a whole session of our adapter, and the answers to it."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from providers.aws.adapter import AwsProvider
from providers.model import Handle
from tests.contract.harness import until
from tests.fakes.aws.model import read_request
from tests.providers.aws.account import OWNER, REGION, Account, account, offer_of

CALLS = {
    "AuthorizeSecurityGroupIngress", "CreateFleet", "CreateLaunchTemplate", "CreateSecurityGroup",
    "DeleteKeyPair", "DeleteLaunchTemplate", "DeleteMessageBatch", "DeleteSecurityGroup", "DescribeInstances",
    "DescribeInstanceTypes", "DescribeSpotPriceHistory", "DescribeSubnets", "DescribeVolumes",
    "GetCallerIdentity", "GetParameter", "GetProducts", "ImportKeyPair", "ReceiveMessage", "RunInstances",
    "TerminateInstances",
}  # fmt: skip
FLEETS: list[dict[str, Any]] = [{"name": "mixed", "types": ["t3.small", "t3.medium"]}]


async def session(there: Account) -> None:
    """What a daemon does with an account, from the first look to the last."""
    queue = there.fake.make_queue()
    provider = there.provider(
        fleets=FLEETS, queues={REGION: queue}, tags={"team": "research"}, spot_max_price_factor=2.0
    )
    offers = await provider.offers()
    cluster = await there.cluster(provider)
    handles: list[Handle] = []
    wanted = [offer_of(offers), offer_of(offers, lifecycle="on_demand")]
    wanted += [one for one in offers if one.instance_type.name == "fleet:mixed"]
    for node, offer in enumerate(wanted):
        outcomes = await provider.launch([there.order(node, offer, cluster, disk_gb=30, age_max_s=3600)])
        handles += [one for one in outcomes if isinstance(one, Handle)]
    assert len(handles) == len(wanted) >= 4
    assert await provider.find(f"{OWNER}/pool/0/1/1") is not None
    assert len((await provider.observe(OWNER)).sightings) == len(handles)
    await notice(there, provider, handles[0].ref)
    assert len((await provider.leftovers(OWNER)).found) > 0
    await provider.check(OWNER)
    assert set(await provider.terminate(handles)) == {None}
    await provider.close_cluster(cluster)
    await provider.aclose()


async def notice(there: Account, provider: AwsProvider, ref: str) -> None:
    """One notice by the queue, until it is deleted there."""
    heard: list[str] = []

    async def listen() -> None:
        async for key, told in provider.notices():
            heard.extend([key] if told is not None else [])

    there.fake.preempt(ref, 120.0, end=False)
    async with anyio.create_task_group() as listening:
        listening.start_soon(listen)
        await until(lambda: there.fake.controls.calls["DeleteMessageBatch"] > 0)
        listening.cancel_scope.cancel()
    assert heard == [f"{OWNER}/pool/0/1/1"]


def test_every_call_of_a_session_is_as_the_model_has_it(tmp_path: Path) -> None:
    with account(tmp_path) as there:
        anyio.run(session, there)
        calls = there.fake.controls.calls
        assert set(calls) >= CALLS, f"not made: {sorted(CALLS - set(calls))}"
        assert there.fake.controls.violations == []
        assert there.fake.resources() == []


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (b"Action=RunInstances&Version=2016-11-15&MinCount=1&MaxCount=1&InstancType=t3.small", "InstancType"),
        (
            b"Action=RunInstances&Version=2016-11-15&MinCount=1&MaxCount=1&InstanceInitiatedShutdownBehavior=end",
            "end",
        ),
    ],
)
def test_the_judge_convicts(body: bytes, wrong: str) -> None:
    violations: list[str] = []
    read_request("ec2", "RunInstances", body, violations.append)
    assert any(wrong in one for one in violations), violations
