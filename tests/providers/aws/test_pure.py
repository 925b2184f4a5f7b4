"""What needs no account: codes, config, marks, user data, events."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
)
from httpx2 import ConnectTimeout, PoolTimeout, WriteTimeout
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from providers.aws import wire
from providers.aws.config import AwsConfig
from providers.aws.faults import CODES, failed, fault_of, refused
from providers.errors import Fault, ProviderError
from providers.host.keys import KeyStore, public_line
from providers.model import ClusterHandle, InstanceType, Lifecycle, Offer, Order

# --- faults -----------------------------------------------------------------------------------------------

# By AWS's own list: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
MEANT = {
    Fault.CAPACITY: "InsufficientInstanceCapacity UnfulfillableCapacity InsufficientCapacity "
    "InsufficientHostCapacity SpotMaxPriceTooLow Unsupported InsufficientFreeAddressesInSubnet "
    "InsufficientVolumeCapacity ReservationCapacityExceeded",
    Fault.QUOTA: "VcpuLimitExceeded InstanceLimitExceeded MaxSpotInstanceCountExceeded VolumeLimitExceeded "
    "PendingVerification PrivateIpAddressLimitExceeded RulesPerSecurityGroupLimitExceeded",
    Fault.THROTTLED: "RequestLimitExceeded Throttling RequestThrottled EC2ThrottledException",
    Fault.UNKNOWN: "InternalError Unavailable ServiceUnavailable",
    Fault.CREDENTIALS: "AuthFailure UnauthorizedOperation InvalidClientTokenId SignatureDoesNotMatch "
    "OptInRequired Blocked ExpiredToken RequestExpired "
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
    Fault.REJECTED: "InvalidAMIID.Malformed InvalidGroupId.Malformed InvalidParameterValue "
    "InvalidParameterCombination InvalidAMIID.NotFound InvalidSubnetID.NotFound InvalidKey.Format "
    "InvalidSubnetId.NotFound VolumeTypeNotAvailableInZone EncryptedVolumesNotSupported "
    "OperationNotPermitted",
    Fault.CONFLICT: "IdempotentParameterMismatch DependencyViolation VolumeInUse InvalidKeyPair.Duplicate",
    Fault.GONE: "InvalidInstanceID.NotFound IdempotentInstanceTerminated InvalidGroup.NotFound "
    "InvalidKeyPair.NotFound InvalidSecurityGroupID.NotFound",
}


@pytest.mark.parametrize(
    ("code", "fault"), [(code, fault) for fault, codes in MEANT.items() for code in codes.split()]
)
def test_what_a_code_means(code: str, fault: Fault) -> None:
    assert fault_of(code) is fault


@pytest.mark.parametrize(
    ("code", "message", "fault"),
    [
        ("AuthFailure", "Not authorized for images: [ami-0123456789abcdef0]", Fault.REJECTED),
        ("AuthFailure", "AWS was not able to validate the provided access credentials", Fault.CREDENTIALS),
        (
            "OptInRequired",
            "In order to use this AWS Marketplace product you need to accept terms and subscribe.",
            Fault.REJECTED,
        ),
        ("OptInRequired", "You are not subscribed to this service.", Fault.CREDENTIALS),
    ],
)
def test_a_code_that_means_an_account_or_one_image(code: str, message: str, fault: Fault) -> None:
    assert refused("aws", "call", answered(code, message=message)).fault is fault


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_known_code_becomes_its_fault_without_a_log(
    code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused("aws", "call", answered(code))
    assert (error.fault, error.code) == (CODES[code], code)
    assert capsys.readouterr().out == ""


def answered(code: str, *, message: str = "words", status: int = 400, **headers: str) -> ClientError:
    metadata: Any = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}
    return ClientError(answer, "Call")


def test_a_code_that_nobody_knows_is_unknown_and_logged(capsys: pytest.CaptureFixture[str]) -> None:
    for status in (400, 403, 500, 503):
        assert refused("aws", "call", answered("NeverHeardOf", status=status)).fault is Fault.UNKNOWN
    assert capsys.readouterr().out.count("NeverHeardOf") >= 4
    assert refused("aws", "call", answered("NeverHeardOf", status=429)).fault is Fault.THROTTLED


def test_what_an_account_may_do_is_not_passed_on_and_a_wait_is() -> None:
    message = "not authorized. Encoded authorization failure message: AbCdEf0123456789"
    error = refused("aws", "call", answered("UnauthorizedOperation", message=message))
    assert "AbCdEf" not in error.detail
    throttled = answered("Throttling", status=503, **{"retry-after": "7"})
    assert refused("aws", "call", throttled).retry_after_s == 7


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (EndpointConnectionError(endpoint_url="u", error="refused"), Fault.NOT_SENT),
        (ConnectTimeoutError(endpoint_url="u", error=ConnectTimeout("")), Fault.NOT_SENT),
        (ConnectTimeoutError(endpoint_url="u", error=PoolTimeout("")), Fault.NOT_SENT),
        (ConnectTimeoutError(endpoint_url="u", error=WriteTimeout("")), Fault.UNKNOWN),
        (ReadTimeoutError(endpoint_url="u", error="late"), Fault.UNKNOWN),
        (HTTPClientError(error="cut"), Fault.UNKNOWN),
        (NoCredentialsError(), Fault.CREDENTIALS),
        (ParamValidationError(report="wrong"), Fault.REJECTED),
    ],
)
def test_how_a_call_without_an_answer_failed(error: BotoCoreError, fault: Fault) -> None:
    assert failed("call", error).fault is fault


# --- config -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"regions": []}, "at least 1"),
        ({"regions": ["us-east-1", "us-east-1"]}, "given twice"),
        ({"regions": ["Virginia"]}, "pattern"),
        ({"access_key_id": {"env": "A"}}, "go together"),
        ({"access_key_id": {"env": "A"}, "secret_access_key": {"env": "B"}, "profile": "p"}, "not both"),
        ({"session_token": {"env": "A"}}, "goes with"),
        ({"access_key_id": "AKIA1"}, "access_key_id"),
        ({"role_arn": "everpool"}, "pattern"),
        ({"ami": {}}, "needs an image"),
        ({"ami": {"x86_64": "debian-12"}}, "is no image"),
        ({"ami": {"sparc": "ami-12345678"}}, "ami"),
        ({"ssh_cidr": "10.0.0.1/8"}, "host bits"),
        ({"tags": {"everpool-owner": "me"}}, "not the user's"),
        ({"tags": {"aws:x": "me"}}, "not the user's"),
        ({"tags": {f"t{number}": "" for number in range(16)}}, "at most 15"),
        ({"subnets": ["subnet-1"], "regions": ["us-east-1", "us-west-2"]}, "are of one region"),
        ({"queues": {"us-west-2": "https://sqs/1/q"}}, "not in regions"),
        ({"queues": {"us-east-1": "q"}}, "pattern"),
        ({"launch_batch": 0}, "greater than or equal to 1"),
        ({"launch_batch": 101}, "less than or equal to 100"),
        ({"fleets": [{"name": "a", "types": []}]}, "at least 1"),
        ({"fleets": [{"name": "a", "types": ["m5.*"]}] * 2}, "given twice"),
        ({"fleets": [{"name": "a", "types": ["m5.*"], "strategy": "dearest"}]}, "strategy"),
        ({"prices": {"t3.small": -1}}, "greater than or equal to 0"),
        ({"spot_max_price_factor": 0.5}, "greater than or equal to 1"),
        ({"disk": 5}, "Extra inputs"),
        ({"disk_type": "io2"}, "disk_type"),  # needs Iops
        ({"disk_type": "st1"}, "disk_type"),  # nothing starts from it
    ],
)
def test_a_wrong_key_is_told(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AwsConfig(**keys)
    assert said in str(caught.value)


# --- marks ------------------------------------------------------------------------------------------------


def order(key: str, *, lifecycle: Lifecycle = "spot", price: int = 5) -> Order:
    shape = InstanceType(name="t3.small", vcpus=2, memory_gb=2)
    return Order(
        key=key,
        owner=key.split("/")[0],
        epoch=3,
        pool="pool",
        node=0,
        instance_id="pool-0-1",
        offer=Offer(id="o", instance_type=shape, lifecycle=lifecycle, micro_usd_per_hour=price),
        cluster=ClusterHandle(cluster_id="c", provider="aws", region="us-east-1", ssh_user="u"),
        public_key="ssh-ed25519 AAAA",
    )


@given(st.integers(2, 100), st.integers(1, 40), st.randoms())
def test_keys_of_a_batch_survive_their_tags(number: int, length: int, dice: Any) -> None:
    keys = [f"owner-1/{'p' * length}/{node}/{dice.randint(1, 99)}/1" for node in range(number)]
    kinds: list[Lifecycle] = [dice.choice(["spot", "on_demand"]) for _ in keys]
    orders = [order(key, lifecycle=kind) for key, kind in zip(keys, kinds, strict=True)]
    assume(wire.fits(orders))  # more are never put into one call
    tags = wire.machine_marks(orders, {"team": "blue"}, "fleet")
    assert wire.batch_keys(tags) == list(zip(kinds, keys, strict=True))
    refs = [f"i-{dice.randint(0, 16**17 - 1):017x}" if dice.random() < 0.8 else "" for _ in keys]
    tags |= wire.machines_marks(refs)
    assert wire.batch_machines(tags) == refs
    assert len(tags) + 15 <= 50
    assert max(map(len, tags.values())) <= wire.TAG_CHARS_MAX
    for ref, key in zip(refs, keys, strict=True):
        if ref and refs.count(ref) == 1:
            assert wire.key_of({"InstanceId": ref}, tags) == key


@given(st.lists(st.sampled_from(["spot", "on_demand"]), max_size=20), st.randoms())
def test_machines_are_assigned_the_same_by_everybody(kinds: list[Lifecycle], dice: Any) -> None:
    keys = [(kind, f"k{number}") for number, kind in enumerate(kinds)]
    machines: dict[Lifecycle, list[str]] = {
        kind: [f"i-{kind}{number}" for number in range(dice.randint(0, 12))] for kind in ("spot", "on_demand")
    }
    first = wire.assign(keys, machines)
    for some in machines.values():
        dice.shuffle(some)
    assert wire.assign(keys, machines) == first
    given_away = [ref for ref in first if ref]
    assert len(set(given_away)) == len(given_away)
    for (kind, _), ref in zip(keys, first, strict=True):
        assert not ref or ref in machines[kind]


def test_too_many_long_keys_do_not_share_a_call() -> None:
    orders = [order(f"o/{'p' * 200}/{node}/1/1") for node in range(40)]
    assert wire.fits(orders[:10])
    assert not wire.fits(orders)


def test_a_key_that_is_no_tag_is_rejected() -> None:
    for key in ("o/p/0/1/" + "x" * 300, "o/p/0/1/a b", "o/p/0/1/\n"):
        with pytest.raises(ProviderError) as caught:
            wire.check_key(order(key))
        assert caught.value.fault is Fault.REJECTED


def test_stars_in_a_filter_are_stars() -> None:
    assert wire.tag_filter("everpool-key", "a*b?c\\d") == {
        "Name": "tag:everpool-key",
        "Values": ["a\\*b\\?c\\\\d"],
    }


# --- user data --------------------------------------------------------------------------------------------


def test_user_data_holds_the_host_key_or_asks_for_a_new_one(tmp_path: Path) -> None:
    private = KeyStore(tmp_path).host_key("c", "i")
    head, _, rest = wire.user_data(private).partition("\n")
    assert head == "#cloud-config"
    told = json.loads(rest)
    assert told["ssh_keys"] == {"ed25519_private": private, "ed25519_public": public_line(private)}
    assert told["ssh_deletekeys"] is True  # the image's own keys are everybody's
    assert "ssh_keys" not in json.loads(wire.user_data("").partition("\n")[2])


# --- events -----------------------------------------------------------------------------------------------


def event(kind: str, **detail: str) -> str:
    """As in the EC2 user guide, "Spot Instance interruption notices" and "rebalance recommendations"."""
    return json.dumps(
        {
            "version": "0",
            "id": "12345678-1234-1234-1234-123456789012",
            "detail-type": kind,
            "source": "aws.ec2",
            "account": "123456789012",
            "time": "2026-11-22T10:00:00Z",
            "region": "us-east-2",
            "resources": ["arn:aws:ec2:us-east-2:123456789012:instance/i-1234567890abcdef0"],
            "detail": {"instance-id": "i-1234567890abcdef0", **detail},
        }
    )


AT = time.mktime(time.strptime("2026-11-22T10:00:00Z", "%Y-%m-%dT%H:%M:%SZ")) - time.timezone


@pytest.mark.parametrize(
    ("body", "deadline_at", "rebalance", "over"),
    [
        (event(wire.WARNING, **{"instance-action": "terminate"}), AT + 120, False, False),
        (event(wire.WARNING, **{"instance-action": "hibernate"}), AT, False, False),
        (event(wire.REBALANCE), None, True, False),
        (event(wire.STATE_CHANGE, state="shutting-down"), AT, False, True),
    ],
)
def test_what_an_event_says(body: str, deadline_at: float | None, rebalance: bool, over: bool) -> None:
    told = wire.happened(body)
    assert told is not None
    assert (told.ref, told.region) == ("i-1234567890abcdef0", "us-east-2")
    assert (told.deadline_at, told.rebalance, told.over) == (deadline_at, rebalance, over)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no JSON",
        "[]",
        "{}",
        "null",
        event("EC2 AMI State Change"),
        event(wire.STATE_CHANGE, state="running"),
    ],
)
def test_what_says_nothing_of_a_machine_being_taken(body: str) -> None:
    assert wire.happened(body) is None
