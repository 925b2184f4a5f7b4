"""What machines need around them, per cluster: a security group, a key pair and a launch template.

Each is found again by its name, which is reckoned from owner and cluster id; what has that name without our
owner's mark is somebody else's and never used.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from providers.aws.clients import Clients
from providers.aws.config import AwsConfig
from providers.aws.faults import AwsError
from providers.aws.places import Networks
from providers.aws.wire import (
    GROUP,
    GROUPS,
    KEY_NAME,
    OWNER,
    SUBNET,
    TEMPLATE,
    VPC,
    Tags,
    cluster_marks,
    digest,
    filters,
    name_of,
    named_profile,
    specification,
    tags_of,
)
from providers.errors import Fault, ProviderError
from providers.model import ClusterHandle, ClusterOrder

Made = tuple[str, Tags]  # id and tags of a thing that is there


class Clusters:
    """Opens and closes clusters."""

    def __init__(self, name: str, clients: Clients, config: AwsConfig, networks: Networks) -> None:
        self._name, self._clients, self._config, self._networks = name, clients, config, networks

    async def open(self, order: ClusterOrder) -> ClusterHandle:
        """See `Provider.open_cluster`. Also raises ProviderError(rejected) for a region that is not ours."""
        region, name = order.region, name_of(order.owner, order.cluster_id)
        if region not in self._config.regions:
            raise ProviderError(Fault.REJECTED, f"{region!r} is not one of {', '.join(self._config.regions)}")
        network = await self._networks.network(region)
        marks = cluster_marks(order.owner, order.cluster_id, order.pool, self._config.tags)
        groups, specific = list(self._config.security_groups), dict[str, str]()
        if not groups:
            specific[GROUP] = await self._group(region, name, network.vpc, marks)
            groups.append(specific[GROUP])
        specific[KEY_NAME] = await self._key(region, name, order.public_key, marks)
        specific[TEMPLATE] = await self._template(region, name, groups, marks)
        specific[GROUPS], specific[VPC] = " ".join(groups), network.vpc
        specific |= {f"{SUBNET}{zone}": subnet for zone, subnet in sorted(network.subnets.items())}
        return ClusterHandle(
            cluster_id=order.cluster_id,
            provider=self._name,
            region=region,
            ssh_user=self._config.ssh_user,
            specific=specific,
        )

    async def close(self, cluster: ClusterHandle) -> None:
        """See `Provider.close_cluster`. Raises ProviderError(conflict) while machines use the group."""
        had, region = cluster.specific, cluster.region
        if TEMPLATE in had:
            await self._gone(region, "delete_launch_template", LaunchTemplateId=had[TEMPLATE])
        if KEY_NAME in had:
            # By its name, which nobody else's has: it was ours when the cluster was opened.
            await self._gone(region, "delete_key_pair", KeyName=had[KEY_NAME])
        if GROUP in had:
            await self._gone(region, "delete_security_group", GroupId=had[GROUP])

    async def _gone(self, region: str, operation: str, **what: Any) -> None:
        try:
            await self._clients.call("ec2", region, operation, **what)
        except ProviderError as error:
            if error.fault is not Fault.GONE:
                raise

    async def _group(self, region: str, name: str, vpc: str, marks: Tags) -> str:
        async def look() -> Made | None:
            reply = await self._clients.call(
                "ec2", region, "describe_security_groups", Filters=filters(group_name=name, vpc_id=vpc)
            )
            return _first(reply.data["SecurityGroups"], "GroupId")

        async def make() -> str:
            reply = await self._clients.call(
                "ec2",
                region,
                "create_security_group",
                GroupName=name,
                Description="everpool: ssh to the machines of a pool",
                VpcId=vpc,
                TagSpecifications=specification(["security-group"], marks),
            )
            return str(reply.data["GroupId"])

        group = await self._found_or_made("security group", name, marks, look, make)
        port, cidr = self._config.ssh_port, self._config.ssh_cidr
        ranges = {"Ipv6Ranges": [{"CidrIpv6": cidr}]} if ":" in cidr else {"IpRanges": [{"CidrIp": cidr}]}
        rule = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **ranges}
        try:
            await self._clients.call(
                "ec2", region, "authorize_security_group_ingress", GroupId=group, IpPermissions=[rule]
            )
        except AwsError as error:
            if error.code != "InvalidPermission.Duplicate":
                raise
        return group

    async def _key(self, region: str, name: str, public_key: str, marks: Tags) -> str:
        async def look() -> Made | None:
            reply = await self._clients.call(
                "ec2", region, "describe_key_pairs", Filters=filters(key_name=name)
            )
            return _first(reply.data["KeyPairs"], "KeyName")

        async def make() -> str:
            reply = await self._clients.call(
                "ec2",
                region,
                "import_key_pair",
                KeyName=name,
                PublicKeyMaterial=public_key.encode(),
                TagSpecifications=specification(["key-pair"], marks),
            )
            return str(reply.data["KeyName"])

        return await self._found_or_made("key pair", name, marks, look, make)

    async def _template(self, region: str, name: str, groups: list[str], marks: Tags) -> str:
        async def look() -> Made | None:
            reply = await self._clients.call(
                "ec2", region, "describe_launch_templates", Filters=filters(launch_template_name=name)
            )
            return _first(reply.data["LaunchTemplates"], "LaunchTemplateId")

        data: dict[str, Any] = {
            "KeyName": name,
            "SecurityGroupIds": groups,
            # Version 2 of the metadata service only, and not for containers one hop further.
            "MetadataOptions": {
                "HttpTokens": "required",
                "HttpEndpoint": "enabled",
                "HttpPutResponseHopLimit": 1,
            },
            "InstanceInitiatedShutdownBehavior": "terminate",
            "TagSpecifications": specification(["volume", "network-interface"], marks),
        }
        profile = self._config.iam_instance_profile
        if profile is not None:
            data["IamInstanceProfile"] = named_profile(profile)

        async def make() -> str:
            reply = await self._clients.call(
                "ec2",
                region,
                "create_launch_template",
                LaunchTemplateName=name,
                ClientToken=digest(marks[OWNER], name, repr(data)),
                LaunchTemplateData=data,
                TagSpecifications=specification(["launch-template"], marks),
            )
            return str(reply.data["LaunchTemplate"]["LaunchTemplateId"])

        return await self._found_or_made("launch template", name, marks, look, make)

    async def _found_or_made(
        self,
        what: str,
        name: str,
        marks: Tags,
        look: Callable[[], Awaitable[Made | None]],
        make: Callable[[], Awaitable[str]],
    ) -> str:
        """What has the name; made when there is none, and looked for again when another call was faster."""
        there = await look()
        if there is None:
            try:
                return await make()
            except AwsError as error:
                if error.fault is not Fault.CONFLICT:
                    raise
                there = await look()
                if there is None:
                    raise
        ref, tags = there
        if tags.get(OWNER) != marks[OWNER]:
            raise ProviderError(Fault.CONFLICT, f"{what} {name} is there and is not marked as ours")
        return ref


def _first(found: list[Mapping[str, Any]], name: str) -> Made | None:
    return (str(found[0][name]), tags_of(found[0])) if found else None
