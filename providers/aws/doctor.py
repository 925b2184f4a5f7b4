"""What `everpool doctor` says of an aws account: one line for each thing that machines need."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from providers.aws.clients import PRICING_REGION, Clients
from providers.aws.config import AwsConfig, Service
from providers.aws.faults import DRY_RUN, AwsError
from providers.aws.images import Images
from providers.aws.offers import Offers
from providers.aws.places import Networks
from providers.aws.wire import digest, tag_filter
from providers.errors import Fault, ProviderError
from providers.model import Check

SKEW_MAX_S = 60.0  # a signature is refused beyond five minutes
# vCPUs of standard families, on demand and spot.
# Source: https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html
QUOTAS = (("on demand", "L-1216C47A"), ("spot", "L-34B43A08"))
# Nobody's: a dry run says whether we may before it looks for the machine, group or key.
_NOBODY = "0123456789abcdef0"
_PUBLIC_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGFzZGZhc2RmYXNkZmFzZGZhc2RmYXNkZmFzZGZhc2Rm everpool"


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
        """See `Provider.check`."""
        first = await self._credentials()
        if not first[0].ok:
            return first
        by_region: dict[str, list[Check]] = {}

        async def one(region: str) -> None:
            by_region[region] = await self._region(region, owner)

        async with anyio.create_task_group() as looking:
            for region in self._config.regions:
                looking.start_soon(one, region)
        return first + [line for region in self._config.regions for line in by_region[region]]

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

    async def _region(self, region: str, owner: str) -> list[Check]:
        lines = [
            await self._line(region, "listing", "ec2:DescribeInstances", self._listing(region, owner)),
            await self._line(
                region,
                "instance types",
                "ec2:DescribeInstanceTypes, ec2:DescribeInstanceTypeOfferings and ec2:DescribeSubnets",
                self._types(region),
                mend="set subnets or vpc, or make a default vpc: aws ec2 create-default-vpc",
            ),
        ]
        for architecture, name in self._config.ami.items():
            action = (
                "ssm:GetParameter and ec2:DescribeImages" if name.startswith("ssm:") else "ec2:DescribeImages"
            )

            async def image(architecture: Any = architecture) -> str:
                return (await self._images.image(region, "", architecture)).id

            mend = f"set ami.{architecture} to an image of {region}"
            lines.append(await self._line(region, f"image {architecture}", action, image, mend=mend))
        lines += [await self._permission(region, *dry) for dry in await self._dry_runs(region)]
        prices = self._prices(region)
        mend = "or set prices: without one a type is not offered on demand"
        lines.append(await self._line(region, "price list", "pricing:GetProducts", prices, mend=mend))
        for what, code in QUOTAS:
            lines.append(await self._quota(region, what, code))
        if region in self._config.queues:
            mend = f"set queues.{region} to a queue that is there"
            action = "sqs:ReceiveMessage, sqs:DeleteMessage and sqs:GetQueueAttributes"
            lines.append(await self._line(region, "queue of notices", action, self._queue(region), mend=mend))
        return lines

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
            return f"{reply.data['Attributes']['ApproximateNumberOfMessages']} messages"

        return look

    async def _dry_runs(self, region: str) -> list[tuple[str, dict[str, Any]]]:
        """Calls that are tried without effect, and what they are tried with."""
        runs: list[tuple[str, dict[str, Any]]] = [
            ("terminate_instances", {"InstanceIds": [f"i-{_NOBODY}"]}),
            ("create_tags", {"Resources": [f"i-{_NOBODY}"], "Tags": [{"Key": "everpool-key", "Value": "x"}]}),
            ("import_key_pair", {"KeyName": f"everpool-{_NOBODY}", "PublicKeyMaterial": _PUBLIC_KEY}),
            ("delete_key_pair", {"KeyName": f"everpool-{_NOBODY}"}),
            (
                "create_launch_template",
                {
                    "LaunchTemplateName": f"everpool-{_NOBODY}",
                    "LaunchTemplateData": {"InstanceInitiatedShutdownBehavior": "terminate"},
                },
            ),
            ("delete_volume", {"VolumeId": f"vol-{_NOBODY}"}),
        ]
        try:
            network = await self._networks.network(region)
            architecture = next(iter(self._config.ami))
            image = await self._images.image(region, "", architecture)
        except ProviderError:
            return runs  # has a line of its own
        group = {"GroupName": f"everpool-{_NOBODY}", "Description": "everpool", "VpcId": network.vpc}
        run = {
            "ImageId": image.id,
            "InstanceType": "t4g.small" if architecture == "arm64" else "t3.small",
            "SubnetId": next(iter(network.subnets.values())),
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": digest(_NOBODY),
        }
        return [("run_instances", run), *runs, ("create_security_group", group)]

    async def _permission(self, region: str, operation: str, parameters: dict[str, Any]) -> Check:
        action = f"ec2:{''.join(word.capitalize() for word in operation.split('_'))}"
        what = f"{action} in {region}"
        try:
            await self._clients.call("ec2", region, operation, DryRun=True, **parameters)
        except AwsError as error:
            # Whether the thing is there is looked at only after whether we may.
            if error.code == DRY_RUN or error.fault in (Fault.GONE, Fault.CONFLICT):
                return Check(what=what, ok=True, detail="allowed")
            mend = f"allow {action}" if error.fault is Fault.CREDENTIALS else ""
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
        self, region: str, what: str, action: str, look: Callable[[], Awaitable[str]], *, mend: str = ""
    ) -> Check:
        try:
            detail = await look()
        except ProviderError as error:
            if error.fault is Fault.CREDENTIALS:
                mend = f"allow {action}" + (f"; {mend}" if mend.startswith("or ") else "")
            return Check(what=f"{what} in {region}", ok=False, detail=error.detail, mend=mend)
        return Check(what=f"{what} in {region}", ok=True, detail=detail)
