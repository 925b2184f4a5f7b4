"""What `everpool doctor` says of an aws account: one line for each thing that machines need."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio

from providers.aws.clients import PRICING_REGION, Clients
from providers.aws.config import AwsConfig, Service
from providers.aws.faults import DRY_RUN, AwsError
from providers.aws.images import Images
from providers.aws.offers import Offers
from providers.aws.places import Networks
from providers.aws.wire import digest, named_profile, tag_filter
from providers.errors import Fault, ProviderError
from providers.model import Architecture, Check

SKEW_MAX_S = 60.0  # a signature is refused beyond five minutes
# Of 30 s that who asks waits for: first the credentials, then all lines side by side.
CREDENTIALS_S, LINE_S = 8.0, 15.0
# vCPUs of standard families, on demand and spot.
# Source: https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html
QUOTAS = (("on demand", "L-1216C47A"), ("spot", "L-34B43A08"))
# Nobody's: a dry run says whether we may before it looks for the machine, group or key.
_NOBODY = "0123456789abcdef0"
_PUBLIC_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGFzZGZhc2RmYXNkZmFzZGZhc2RmYXNkZmFzZGZhc2Rm everpool"

_LATE = "no answer in time"
Look = Callable[[], Awaitable[Check]]


class Doctor:
    """Looks at everything and changes nothing."""

    def __init__(
        self,
        name: str,
        clients: Clients,
        config: AwsConfig,
        parts: tuple[Images, Networks, Offers],
        now: Callable[[], float],
    ) -> None:
        self._name, self._clients, self._config, self._now = name, clients, config, now
        self._images, self._networks, self._offers = parts

    async def check(self, owner: str) -> list[Check]:
        """See `Provider.check`. All lines are looked at side by side, each for so long at most."""
        lines: list[list[Check]] = [[Check(what="credentials", ok=False, detail=_LATE)]]
        with anyio.move_on_after(CREDENTIALS_S):
            lines[0] = await self._credentials()
        if not lines[0][0].ok:
            return lines[0]
        looks = [look for region in self._config.regions for look in self._looks(region, owner)]
        lines += [[Check(what=what, ok=False, detail=_LATE)] for what, _ in looks]

        async def one(index: int, look: Look) -> None:
            with anyio.move_on_after(LINE_S):
                lines[index] = [await look()]

        async with anyio.create_task_group() as looking:
            for index, (_, look) in enumerate(looks, 1):
                looking.start_soon(one, index, look)
        return [line for some in lines for line in some]

    async def _credentials(self) -> list[Check]:
        region = self._config.regions[0]
        mend = "set profile, access_key_id and secret_access_key, or role_arn; or give this machine a role"
        try:
            reply = await self._clients.call("sts", region, "get_caller_identity")
        except ProviderError as error:
            return [Check(what="credentials", ok=False, detail=error.detail, mend=mend)]
        lines = [Check(what="credentials", ok=True, detail=str(reply.data.get("Arn", "")))]
        if reply.at is not None:
            off_s = self._now() - reply.at - 0.5
            ok, detail = (
                abs(off_s) <= SKEW_MAX_S,
                f"{abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} aws",
            )
            lines.append(
                Check(what="clock", ok=ok, detail=detail, mend="" if ok else "keep the time with ntp")
            )
        return lines

    def _looks(self, region: str, owner: str) -> list[tuple[str, Look]]:
        """What is looked at in a region, by the names of the lines."""
        found: list[tuple[str, Look]] = []

        def line(what: str, action: str, look: Callable[[], Awaitable[str]], mend: str = "") -> None:
            what = f"{what} in {region}"
            found.append((what, partial(self._line, what, action, look, mend=mend)))

        line("listing", "ec2:DescribeInstances", self._listing(region, owner))
        line(
            "instance types",
            "ec2:DescribeInstanceTypes, ec2:DescribeInstanceTypeOfferings and ec2:DescribeSubnets",
            self._types(region),
            "set subnets or vpc, or make a default vpc: aws ec2 create-default-vpc",
        )
        for architecture, name in self._config.ami.items():
            action = (
                "ssm:GetParameter and ec2:DescribeImages" if name.startswith("ssm:") else "ec2:DescribeImages"
            )
            mend = f"set ami.{architecture} to an image of {region}"
            line(f"image {architecture}", action, partial(self._image, region, architecture), mend)
        for operation, parameters in self._dry_runs():
            action = _action(operation)
            try_it = partial(self._dry_run, region, operation, action, parameters)
            found.append((f"{action} in {region}", try_it))
        found += self._dry_runs_in_place(region)
        mend = "or set prices: without one a type is not offered on demand"
        line("price list", "pricing:GetProducts", self._prices(region), mend)
        for what, code in QUOTAS:
            found.append((f"quota {what} in {region}", partial(self._quota, region, what, code)))
        if region in self._config.queues:
            mend = f"set queues.{region} to a queue that is there"
            line("queue of notices", "sqs:GetQueueAttributes", self._queue(region), mend)
        return found

    async def _image(self, region: str, architecture: Architecture) -> str:
        return (await self._images.image(region, "", architecture)).id

    def _listing(self, region: str, owner: str) -> Callable[[], Awaitable[str]]:
        async def look() -> str:
            reply = await self._clients.call(
                "ec2",
                region,
                "describe_instances",
                Filters=[tag_filter("everpool-owner", owner)],
                MaxResults=5,
            )
            return "some machines of ours" if reply.data["Reservations"] else "no machines of ours"

        return look

    def _types(self, region: str) -> Callable[[], Awaitable[str]]:
        async def look() -> str:
            network = await self._networks.network(region)
            kinds = await self._offers.kinds(region)
            return f"{len(kinds)} types, {len(network.subnets)} zones with a subnet"

        return look

    def _prices(self, region: str) -> Callable[[], Awaitable[str]]:
        async def look() -> str:
            return (
                f"read from {PRICING_REGION}"
                if await self._offers.price_list(region, pages_max=1)
                else "empty"
            )

        return look

    def _queue(self, region: str) -> Callable[[], Awaitable[str]]:
        async def look() -> str:
            reply = await self._clients.call(
                "sqs",
                region,
                "get_queue_attributes",
                QueueUrl=self._config.queues[region],
                AttributeNames=["ApproximateNumberOfMessages"],
            )
            number = reply.data["Attributes"]["ApproximateNumberOfMessages"]
            return f"it is there, with {number} messages; receiving and deleting them was not tried"

        return look

    def _dry_runs(self) -> list[tuple[str, dict[str, Any]]]:
        """Calls that are tried without effect, and what they are tried with. All that the adapter makes."""
        name, template = f"everpool-{_NOBODY}", f"lt-{_NOBODY}"
        group = f"sg-{_NOBODY}"
        rule = {
            "IpProtocol": "tcp",
            "FromPort": 22,
            "ToPort": 22,
            "IpRanges": [{"CidrIp": "192.0.2.1/32"}],  # of nobody: RFC 5737
        }
        runs: list[tuple[str, dict[str, Any]]] = [
            ("describe_volumes", {}),
            ("describe_network_interfaces", {}),
            ("describe_key_pairs", {}),
            ("describe_security_groups", {}),
            ("describe_launch_templates", {}),
            ("describe_spot_price_history", {}),
            ("terminate_instances", {"InstanceIds": [f"i-{_NOBODY}"]}),
            ("create_tags", {"Resources": [f"i-{_NOBODY}"], "Tags": [{"Key": "everpool-key", "Value": "x"}]}),
            ("import_key_pair", {"KeyName": name, "PublicKeyMaterial": _PUBLIC_KEY}),
            ("delete_key_pair", {"KeyName": name}),
            (
                "create_launch_template",
                {
                    "LaunchTemplateName": name,
                    "LaunchTemplateData": {"InstanceInitiatedShutdownBehavior": "terminate"},
                },
            ),
            ("delete_launch_template", {"LaunchTemplateId": template}),
            ("delete_volume", {"VolumeId": f"vol-{_NOBODY}"}),
            ("delete_network_interface", {"NetworkInterfaceId": f"eni-{_NOBODY}"}),
            ("delete_security_group", {"GroupId": group}),
        ]
        if not self._config.security_groups:
            runs.append(("authorize_security_group_ingress", {"GroupId": group, "IpPermissions": [rule]}))
        if self._config.fleets:
            specified = {"LaunchTemplateId": template, "Version": "$Default"}
            fleet = {
                "Type": "instant",
                "LaunchTemplateConfigs": [{"LaunchTemplateSpecification": specified}],
                "TargetCapacitySpecification": {
                    "TotalTargetCapacity": 1,
                    "DefaultTargetCapacityType": "on-demand",
                },
            }
            runs += [("describe_fleets", {}), ("create_fleet", fleet)]
        return runs

    def _dry_runs_in_place(self, region: str) -> list[tuple[str, Look]]:
        """Those that need a network and an image that are there."""

        async def run(**more: Any) -> dict[str, Any]:
            architecture = next(iter(self._config.ami))
            network = await self._networks.network(region)
            return {
                "ImageId": (await self._images.image(region, "", architecture)).id,
                "InstanceType": "t4g.small" if architecture == "arm64" else "t3.small",
                "SubnetId": next(iter(network.subnets.values())),
                "MinCount": 1,
                "MaxCount": 1,
                "ClientToken": digest(_NOBODY, *more),
                **more,
            }

        async def group() -> dict[str, Any]:
            vpc = (await self._networks.network(region)).vpc
            return {"GroupName": f"everpool-{_NOBODY}", "Description": "everpool", "VpcId": vpc}

        async def tried(
            operation: str, action: str, prepare: Callable[[], Awaitable[dict[str, Any]]]
        ) -> Check:
            try:
                parameters = await prepare()
            except ProviderError as error:
                detail = f"not tried: {error.detail}"  # which has a line of its own
                return Check(what=f"{action} in {region}", ok=False, detail=detail)
            return await self._dry_run(region, operation, action, parameters)

        wanted: list[tuple[str, str, Callable[[], Awaitable[dict[str, Any]]]]] = [
            ("run_instances", _action("run_instances"), run)
        ]
        profile = self._config.iam_instance_profile
        if profile is not None:
            with_profile = partial(run, IamInstanceProfile=named_profile(profile))
            wanted.append(("run_instances", "iam:PassRole", with_profile))
        if not self._config.security_groups:
            wanted.append(("create_security_group", _action("create_security_group"), group))
        return [(f"{one[1]} in {region}", partial(tried, *one)) for one in wanted]

    async def _dry_run(self, region: str, operation: str, action: str, parameters: dict[str, Any]) -> Check:
        what = f"{action} in {region}"
        try:
            await self._clients.call("ec2", region, operation, DryRun=True, **parameters)
        except AwsError as error:
            # Whether the thing is there is looked at only after whether we may.
            if error.code == DRY_RUN or error.fault in (Fault.GONE, Fault.CONFLICT):
                return Check(what=what, ok=True, detail="allowed")
            mend = _allow(action) if error.fault is Fault.CREDENTIALS else ""
            return Check(what=what, ok=False, detail=error.detail, mend=mend)
        except ProviderError as error:
            return Check(what=what, ok=False, detail=error.detail)
        return Check(what=what, ok=True, detail="allowed")

    async def _quota(self, region: str, what: str, code: str) -> Check:
        service: Service = "service-quotas"
        try:
            reply = await self._clients.call(
                service, region, "get_service_quota", ServiceCode="ec2", QuotaCode=code
            )
            most = float(reply.data["Quota"]["Value"])
        except ProviderError as error:
            # We can do without: a quota that is met is a fault of the launch.
            mend = "allow servicequotas:GetServiceQuota to see it here"
            return Check(
                what=f"quota {what} in {region}", ok=True, detail=f"not known: {error.detail}", mend=mend
            )
        ok = most > 0
        mend = "" if ok else f"ask aws to raise quota {code} of ec2 in {region}"
        return Check(what=f"quota {what} in {region}", ok=ok, detail=f"{most:g} vCPUs", mend=mend)

    async def _line(
        self, what: str, action: str, look: Callable[[], Awaitable[str]], *, mend: str = ""
    ) -> Check:
        try:
            detail = await look()
        except ProviderError as error:
            if error.fault is Fault.CREDENTIALS:
                mend = f"allow {action}" + (f"; {mend}" if mend.startswith("or ") else "")
            return Check(what=what, ok=False, detail=error.detail, mend=mend)
        return Check(what=what, ok=True, detail=detail)


def _action(operation: str) -> str:
    """The permission that a call of ec2 needs."""
    return f"ec2:{''.join(word.capitalize() for word in operation.split('_'))}"


def _allow(action: str) -> str:
    """What mends a refused try. It was tried on nobody's thing, which has no mark."""
    ends = action.startswith(("ec2:Delete", "ec2:Terminate", "ec2:Authorize", "ec2:CreateTags"))
    only_ours = "; right so where your policy allows it only for what is marked everpool-owner"
    return f"allow {action}{only_ours if ends else ''}"
