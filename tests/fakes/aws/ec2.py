"""The calls of ec2 that moto does not do as the vendor does."""

import base64
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import moto.settings
from moto.backends import get_backend
from moto.ec2.models.instance_types import INSTANCE_TYPES

from tests.fakes.aws.base import ACCOUNT, AwsRefused, Call, backend, new_address
from tests.fakes.aws.model import Params, ec2_answer, form, read_answer
from tests.fakes.controls import market
from tests.fakes.guests import Boot
from tests.fakes.metadata import Imds

if TYPE_CHECKING:
    from tests.fakes.aws.fake import AwsFake

Handler = Callable[[Call, Params], bytes]
_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
_MERGED = ("KeyName", "SecurityGroupIds", "MetadataOptions", "InstanceInitiatedShutdownBehavior",
           "IamInstanceProfile")  # fmt: skip


@dataclass(slots=True)
class Life:
    """One machine, from its launch on."""

    ref: str
    region: str
    market: str
    host: str
    launched: float
    running: float
    asked_to_end: float | None = None
    ended: float | None = None
    reason: tuple[str, str] = ("", "")  # code and message
    stopped: bool = False
    user_data: str = ""
    options: Params = field(default_factory=dict)  # of RunInstances, with those of the launch template

    def state(self, at: float) -> str | None:
        """The vendor's word at a moment; None: it was not there yet."""
        if at < self.launched:
            return None
        if self.ended is not None and at >= self.ended:
            return "terminated"
        if self.asked_to_end is not None and at >= self.asked_to_end:
            return "shutting-down"
        if self.stopped:
            return "stopped"
        return "running" if at >= self.running else "pending"


class Ec2:
    """Machines, fleets and prices; called with the fake's lock held, but for what tests call."""

    def __init__(self, fake: "AwsFake") -> None:
        self._fake, self._controls = fake, fake.controls
        self._lives: dict[str, Life] = {}
        self._tokens: dict[tuple[str, str, str], tuple[str, Callable[[Call], bytes]]] = {}
        self._fleets: dict[str, Params] = {}
        self.protected: set[str] = set()  # machines with termination protection
        self.guarded: set[str] = set()  # machines that a policy does not let us end

    def handler(self, operation: str) -> Handler | None:
        """Who answers this operation; None: moto."""
        return {
            "RunInstances": self._run_instances,
            "CreateFleet": self._create_fleet,
            "DescribeFleets": self._describe_fleets,
            "DescribeInstances": self._describe_instances,
            "TerminateInstances": self._terminate_instances,
            "DescribeSpotPriceHistory": self._spot_prices,
            "CreateTags": self._create_tags,
            "DeleteKeyPair": self._delete_key_pair,
            "DeleteSecurityGroup": self._delete_group,
            "DescribeInstanceTypes": self._of_types,
            "DescribeInstanceTypeOfferings": self._of_types,
        }.get(operation)

    # --- for tests --------------------------------------------------------------------------------

    def life(self, ref: str) -> Life:
        """One machine."""
        return self._lives[ref]

    def lives(self) -> list[Life]:
        """All machines there ever were, in the order of their launches."""
        return list(self._lives.values())

    def tags(self, ref: str) -> dict[str, str]:
        """A machine's tags."""
        found = backend("ec2", self.life(ref).region).describe_tags(filters={"resource-id": [ref]})
        return {str(tag["key"]): str(tag["value"]) for tag in found}

    def alive(self) -> list[str]:
        """Machines that have not ended."""
        now = time.time()
        return [life.ref for life in self._lives.values() if life.state(now) != "terminated"]

    def ended(self, ref: str, code: str, message: str) -> None:
        """End a machine now, for this reason."""
        with self._fake._lock:
            life = self.life(ref)
            if life.ended is None or life.ended > time.time():
                if life.asked_to_end is None:
                    backend("ec2", life.region).terminate_instances([ref])
                life.asked_to_end = life.ended = time.time()
                life.reason = (code, message)
        if self._fake.guests is not None:
            self._fake.guests.kill(ref)

    def purge(self, ref: str) -> None:
        """Forget a machine that has ended, as is done after an hour."""
        with self._fake._lock:
            there = backend("ec2", self._lives.pop(ref).region)
            for reservation in there.reservations.values():
                reservation.instances = [one for one in reservation.instances if one.id != ref]

    def forget_fleets(self) -> None:
        """Forget all fleets, as is done a while after they were made."""
        self._fleets.clear()

    def made(self, region: str, tags: dict[str, str]) -> str:
        """Make a machine with these tags, past all calls."""
        with self._fake._lock:
            there = backend("ec2", region)
            image = next(one.id for one in there.amis.values() if one.platform != "windows")
            moto.settings.EC2_ENABLE_INSTANCE_TYPE_VALIDATION = False  # slow, and there is such a type
            made = there.run_instances(
                image, 1, None, [], tags={"instance": tags}, instance_type="t3.small",
                is_instance_type_default=False, region_name=region,
            ).instances[0]  # fmt: skip
            moto.settings.EC2_ENABLE_INSTANCE_TYPE_VALIDATION = True
            self._lives[made.id] = self._new(made.id, region, "", {})
            return str(made.id)

    def resources(self) -> list[str]:
        """Everything that is left, of anybody."""
        found = self.alive()
        for region, there in get_backend("ec2")[ACCOUNT].items():
            found += [f"{region}/{ref}" for ref in there.volumes]
            found += [f"{region}/{ref}" for ref in there.enis if not _of_the_dead(self, there.enis[ref])]
            found += [f"{region}/{name}" for name in there.key_pairs]
            found += [f"{region}/{ref}" for ref in there.launch_templates]
            groups = [group for some in there.groups.values() for group in some.values()]
            found += [f"{region}/{group.id}" for group in groups if group.name != "default"]
            found += [f"{region}/{address.allocation_id}" for address in there.addresses]
        return found

    # --- launching --------------------------------------------------------------------------------

    def _run_instances(self, call: Call, params: Params) -> bytes:
        return self._once(call, params, lambda: self._run(call, params))

    def _once(self, call: Call, params: Params, make: Callable[[], Callable[[Call], bytes]]) -> bytes:
        """Do it once per token; the same token with other words is refused."""
        token = params.get("ClientToken")
        if not token:
            return make()(call)
        if len(token) > 64:
            raise AwsRefused("InvalidParameterValue", "Invalid value for clientToken: too long")
        words = json.dumps(params, sort_keys=True, default=str)
        known = self._tokens.get((call.region, call.operation, token))
        if known is None:
            known = self._tokens[call.region, call.operation, token] = (words, make())
        elif known[0] != words:
            raise AwsRefused("IdempotentParameterMismatch", "Arguments differ from the first request's")
        return known[1](call)

    def _run(self, call: Call, params: Params) -> Callable[[Call], bytes]:
        refs = self._launched(call, params)

        def answer(again: Call) -> bytes:
            listed = self._listed(again, {"InstanceIds": refs}, time.time())
            found = {
                str(one["InstanceId"]): one for some in listed["Reservations"] for one in some["Instances"]
            }
            instances = [found[ref] for ref in refs]
            return ec2_answer("RunInstances", {"ReservationId": "r-0fake", "Instances": instances})

        return answer

    def _launched(self, call: Call, params: Params, *, exactly: int | None = None) -> list[str]:
        """Make machines, as many as there are; the refs of those made."""
        params = self._with_template(call.region, params)
        lifecycle = "spot" if params.get("InstanceMarketOptions") else "on_demand"
        subnet = backend("ec2", call.region).get_subnet(params["SubnetId"])
        zone = self._fake.zones.get(subnet.availability_zone, subnet.availability_zone)
        place = market(zone, params["InstanceType"], lifecycle)
        least, most = (params["MinCount"], params["MaxCount"]) if exactly is None else (exactly, exactly)
        number = min(most, self.room(place))
        if number < least:
            text = f"We currently do not have sufficient {params['InstanceType']} capacity in {zone}."
            raise AwsRefused("InsufficientInstanceCapacity", text, 500)
        asked = {
            name: value for name, value in params.items() if name not in ("ClientToken", "LaunchTemplate")
        }
        asked |= {"MinCount": number, "MaxCount": number}
        if "BlockDeviceMappings" in asked:  # moto wants a size of each
            disks = [{**one, "Ebs": {"VolumeSize": 8, **one["Ebs"]}} for one in asked["BlockDeviceMappings"]]
            asked["BlockDeviceMappings"] = disks
        status, body, _ = self._fake.pass_on(call, form("ec2", "RunInstances", asked))
        made = read_answer("ec2", "RunInstances", status, body)
        if status >= 300:
            error = made["Error"]
            raise AwsRefused(error["Code"], error["Message"], status)
        refs = [str(one["InstanceId"]) for one in made["Instances"]]
        specified = {one["ResourceType"]: one.get("Tags", ()) for one in params.get("TagSpecifications", ())}
        for ref in refs:
            instance = backend("ec2", call.region).get_instance(ref)
            nic = {tag["Key"]: tag["Value"] for tag in specified.get("network-interface", ())}
            instance.nics[0].add_tags(nic)
            instance.nics[0].delete_on_termination = True
            if lifecycle == "spot":
                instance.spot_instance_request_id = f"sir-{secrets.token_hex(4)}"
            self._lives[ref] = self._new(ref, call.region, place, params)
            self._boot(self._lives[ref])
        return refs

    def _with_template(self, region: str, params: Params) -> Params:
        """What the launch template says, where the request does not."""
        named = params.get("LaunchTemplate")
        if named is None:
            return params
        ref = named["LaunchTemplateId"]
        there = backend("ec2", region).launch_templates
        if ref not in there:
            raise AwsRefused("InvalidLaunchTemplateId.NotFound", f"The launch template {ref} does not exist")
        data = there[ref].default_version().data
        merged = {name: data[name] for name in _MERGED if name in data}
        kinds = ("instance", "volume", "network-interface")  # moto puts the template's own tags there too
        tags = {
            one["ResourceType"]: one
            for one in data.get("TagSpecifications", ())
            if one["ResourceType"] in kinds
        }
        tags |= {one["ResourceType"]: one for one in params.get("TagSpecifications", ())}
        return {**merged, **params, "TagSpecifications": list(tags.values())}

    def room(self, place: str) -> int:
        """Machines that may still be made in a market."""
        now, most = time.time(), self._controls.capacity.get(place)
        if most is None:
            return 10**6
        return most - sum(
            life.market == place and life.state(now) != "terminated" for life in self._lives.values()
        )

    def _new(self, ref: str, region: str, place: str, params: Params) -> Life:
        now = time.time()
        running = now + self._controls.starts_after_s
        user_data = base64.b64decode(params.get("UserData", "")).decode()
        host = new_address()
        return Life(ref, region, place, host, now, running, user_data=user_data, options=params)

    def _boot(self, life: Life) -> None:
        if self._fake.guests is None:
            return
        pair = backend("ec2", life.region).key_pairs[life.options["KeyName"]]
        told = json.loads(life.user_data.partition("\n")[2]) if life.user_data else {}
        env = {}
        if self._fake.imds is not None:
            metadata = self._fake.metadata[life.ref] = Imds()
            env["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = self._fake.imds.start(life.ref, metadata)
        self._fake.guests.boot(
            Boot(
                ref=life.ref,
                host=life.host,
                port=self._fake.ssh_port,
                user=self._fake.ssh_user,
                authorized_keys=(_line(pair.material_public),),
                host_key=told.get("ssh_keys", {}).get("ed25519_private", ""),
                env=env,
            )
        )

    # --- fleets -----------------------------------------------------------------------------------

    def _create_fleet(self, call: Call, params: Params) -> bytes:
        return self._once(call, params, lambda: self._fleet(call, params))

    def _fleet(self, call: Call, params: Params) -> Callable[[Call], bytes]:
        if params.get("Type") != "instant":
            raise AwsRefused("InvalidParameterValue", "only instant fleets are faked")
        target = params["TargetCapacitySpecification"]
        fleet = f"fleet-{secrets.token_hex(8)}"
        instances: list[Params] = []
        errors: list[Params] = []
        wanted = (("on-demand", "OnDemandTargetCapacity"), ("spot", "SpotTargetCapacity"))
        if sum(target.get(name, 0) for _, name in wanted) != target["TotalTargetCapacity"]:
            raise AwsRefused("InvalidParameterValue", "the capacities do not add up")
        for lifecycle, name in wanted:
            left = target.get(name, 0)
            for config in params["LaunchTemplateConfigs"]:
                for override in config["Overrides"]:
                    if left:
                        left -= self._some(
                            call, params, config, override, lifecycle, left, fleet, instances, errors
                        )
        tags = [
            tag
            for one in params.get("TagSpecifications", ())
            if one["ResourceType"] == "fleet"
            for tag in one["Tags"]
        ]
        self._fleets[fleet] = {"FleetId": fleet, "Type": "instant", "Tags": tags, "Instances": instances}
        fields = {"FleetId": fleet, "Instances": instances, "Errors": errors}
        return lambda _: ec2_answer("CreateFleet", fields)

    def _some(
        self, call: Call, params: Params, config: Params, override: Params, lifecycle: str, left: int,
        fleet: str, instances: list[Params], errors: list[Params],
    ) -> int:  # fmt: skip
        """Make what one override has; how many."""
        template = config["LaunchTemplateSpecification"]
        run: Params = {
            "LaunchTemplate": {"LaunchTemplateId": template["LaunchTemplateId"]},
            "UserData": template.get("LaunchTemplateSpecificationUserData", ""),
            "MinCount": 1,
            "MaxCount": left,
            "TagSpecifications": [
                one for one in params["TagSpecifications"] if one["ResourceType"] == "instance"
            ],
            **{
                name: override[name]
                for name in ("InstanceType", "SubnetId", "ImageId", "BlockDeviceMappings")
            },
        }
        if lifecycle == "spot":
            run["InstanceMarketOptions"] = {"MarketType": "spot"}
        shown = {name: value for name, value in override.items() if name != "BlockDeviceMappings"}
        told = {
            "LaunchTemplateAndOverrides": {
                "LaunchTemplateSpecification": {
                    "LaunchTemplateId": template["LaunchTemplateId"],
                    "Version": "1",
                },
                "Overrides": shown,
            },
            "Lifecycle": lifecycle,
        }
        try:
            refs = self._launched(call, run)
        except AwsRefused as refused:
            errors.append({**told, "ErrorCode": refused.code, "ErrorMessage": refused.message})
            return 0
        for ref in refs:
            backend("ec2", call.region).get_instance(ref).add_tags({"aws:ec2:fleet-id": fleet})
        instances.append({**told, "InstanceIds": refs, "InstanceType": override["InstanceType"]})
        return len(refs)

    def _describe_fleets(self, call: Call, params: Params) -> bytes:
        unknown = [ref for ref in params.get("FleetIds", ()) if ref not in self._fleets]
        if unknown:
            raise AwsRefused("InvalidFleetId.NotFound", f"The fleet {unknown[0]} does not exist")
        return ec2_answer("DescribeFleets", {"Fleets": [self._fleets[ref] for ref in params["FleetIds"]]})

    # --- seeing and ending ------------------------------------------------------------------------

    def _describe_instances(self, call: Call, params: Params) -> bytes:
        at = time.time() - self._controls.listing_lag_s
        return ec2_answer("DescribeInstances", self._listed(call, params, at))

    def _listed(self, call: Call, params: Params, at: float) -> Params:
        """Instances as they were at a moment."""
        asked = {name: value for name, value in params.items() if name in _asked}
        if "MaxResults" in asked:
            asked["MaxResults"] = min(asked["MaxResults"], self._fake.page)
        status, body, _ = self._fake.pass_on(call, form("ec2", "DescribeInstances", asked))
        found = read_answer("ec2", "DescribeInstances", status, body)
        if status >= 300:
            raise AwsRefused(found["Error"]["Code"], found["Error"]["Message"], status)
        for reservation in found["Reservations"]:
            shown = [self._as_it_was(one, at) for one in reservation["Instances"]]
            reservation["Instances"] = [one for one in shown if one is not None]
        return found

    def _as_it_was(self, instance: Params, at: float) -> Params | None:
        life = self._lives.get(str(instance["InstanceId"]))
        if life is None:
            return instance
        state = life.state(at)
        if state is None:
            return None
        zone = instance["Placement"]["AvailabilityZone"]
        instance = {
            name: value for name, value in instance.items() if name not in ("StateReason", "PublicDnsName")
        }
        instance["State"] = {"Name": state, "Code": _CODES[state]}
        instance["StateTransitionReason"] = ""
        instance["Placement"] = {"AvailabilityZone": zone, "Tenancy": "default"}
        instance["LaunchTime"] = datetime.fromtimestamp(int(life.launched), UTC)
        instance.pop("PublicIpAddress", None)
        if state == "running":
            instance["PublicIpAddress"] = life.host
        if state in ("terminated", "shutting-down") and life.asked_to_end is not None:
            ended = datetime.fromtimestamp(life.ended or life.asked_to_end, UTC)
            said = "User initiated" if life.reason[0].startswith("Client.User") else life.reason[0]
            instance["StateTransitionReason"] = f"{said} ({ended:%Y-%m-%d %H:%M:%S} GMT)"
            instance["StateReason"] = {"Code": life.reason[0], "Message": life.reason[1]}
        return instance

    def _terminate_instances(self, call: Call, params: Params) -> bytes:
        refs, now = params["InstanceIds"], time.time()
        there = {life.ref for life in self._lives.values() if life.region == call.region}
        malformed = [ref for ref in refs if len(ref) < 10]
        if malformed:
            raise AwsRefused("InvalidInstanceID.Malformed", f'Invalid id: "{malformed[0]}"')
        unknown = [ref for ref in refs if ref not in there]
        if unknown:
            quoted = ", ".join(unknown)
            text = f"The instance ID '{quoted}' does not exist"
            if len(unknown) > 1:
                text = f"The instance IDs '{quoted}' do not exist"
            raise AwsRefused("InvalidInstanceID.NotFound", text)
        for ref in refs:
            if ref in self.protected:
                text = f"The instance '{ref}' may not be terminated. Modify its 'disableApiTermination'"
                raise AwsRefused("OperationNotPermitted", f"{text} instance attribute and try again.")
            if ref in self.guarded:
                text = (
                    "You are not authorized to perform this operation. Encoded authorization failure message"
                )
                raise AwsRefused("UnauthorizedOperation", f"{text}: AbCdEf", 403)
        changes = []
        for ref in refs:
            life = self._lives[ref]
            before = life.state(now) or "pending"
            if life.asked_to_end is None:
                backend("ec2", life.region).terminate_instances([ref])
                life.asked_to_end, life.ended = now, now + self._controls.ends_after_s
                life.reason = (
                    "Client.UserInitiatedShutdown",
                    "Client.UserInitiatedShutdown: User initiated shutdown",
                )
                if self._fake.guests is not None:
                    self._fake.guests.kill(ref)
            states = {"PreviousState": before, "CurrentState": "shutting-down"}
            change = {name: {"Name": word, "Code": _CODES[word]} for name, word in states.items()}
            changes.append({"InstanceId": ref, **change})
        return ec2_answer("TerminateInstances", {"TerminatingInstances": changes})

    def _create_tags(self, call: Call, params: Params) -> bytes:
        """On all of them or none; moto takes any id of a machine."""
        unknown = [ref for ref in params["Resources"] if ref.startswith("i-") and ref not in self._lives]
        if unknown:
            raise AwsRefused("InvalidInstanceID.NotFound", f"The instance ID '{unknown[0]}' does not exist")
        return self._fake.pass_on(call)[1]

    def _of_types(self, call: Call, params: Params) -> bytes:
        """A filter may name many types by a pattern: moto takes it for a name."""
        names = [str(name) for name in INSTANCE_TYPES]
        for one in params.get("Filters", ()):
            if one["Name"] == "instance-type":
                one["Values"] = [
                    name for name in names if any(fnmatchcase(name, glob) for glob in one["Values"])
                ]
        status, body, _ = self._fake.pass_on(call, form("ec2", call.operation, params))
        answer = read_answer("ec2", call.operation, status, body)
        return ec2_answer(call.operation, answer)

    def _delete_group(self, call: Call, params: Params) -> bytes:
        """Not while a machine is in it; moto would."""
        group = params["GroupId"]
        for ref in self.alive():
            if group in self.life(ref).options.get("SecurityGroupIds", ()):
                raise AwsRefused("DependencyViolation", f"resource {group} has a dependent object")
        status, body, _ = self._fake.pass_on(call)
        if status >= 300:
            error = read_answer("ec2", call.operation, status, body)["Error"]
            raise AwsRefused(error["Code"], error["Message"], status)
        return body

    def _delete_key_pair(self, call: Call, params: Params) -> bytes:
        """By name or by id; moto knows names only."""
        pairs = backend("ec2", call.region).key_pairs
        for name, pair in list(pairs.items()):
            if name == params.get("KeyName") or pair.id == params.get("KeyPairId"):
                del pairs[name]
        return ec2_answer("DeleteKeyPair", {"Return": True})

    def _spot_prices(self, call: Call, params: Params) -> bytes:
        """A third of the price on demand, a little dearer in each further zone; an old price comes along."""
        zones = sorted(zone.name for zone in backend("ec2", call.region).describe_availability_zones())
        found: list[Mapping[str, Any]] = []
        for name in params.get("InstanceTypes", ()):
            dollars = (self._fake.prices or {}).get(name, 0.1) * 0.3
            for index, zone in enumerate(zones):
                for age_s, factor in ((86_400, 2.0), (60, 1.0)):
                    found.append(
                        {
                            "AvailabilityZone": zone,
                            "InstanceType": name,
                            "ProductDescription": "Linux/UNIX",
                            "SpotPrice": f"{dollars * factor * (1 + index / 10):.6f}",
                            "Timestamp": datetime.fromtimestamp(int(time.time() - age_s), UTC),
                        }
                    )
        return ec2_answer("DescribeSpotPriceHistory", {"SpotPriceHistory": found})


_asked = ("Filters", "InstanceIds", "MaxResults", "NextToken")


def _line(material: object) -> str:
    """A public key as one line, however moto keeps it."""
    text = material.decode() if isinstance(material, bytes) else str(material)
    if text.startswith("ssh-"):
        return text.strip()
    return base64.b64decode(text).decode().strip()


def _of_the_dead(ec2: Ec2, eni: Any) -> bool:
    """Whether an interface belonged to a machine that has ended: the vendor deletes it then."""
    instance = getattr(eni, "instance", None)
    return instance is not None and instance.id not in ec2.alive()
