"""Google's own SDK as a judge: it drives a fake Compute Engine, and reads the bodies that our adapter sends.

    python google_compute.py URL TOKEN BODIES

URL is where the fake is served, TOKEN one that it takes, BODIES a JSON file of [method, body] pairs, as
`FakeGcp.bodies` has them. Runs in an environment of its own: google-cloud-compute, and nothing of ours.
Prints one JSON object: {"checks": [what was looked at, …], "failed": [what went wrong, …]}.
"""

import json
import sys
import uuid
from pathlib import Path
from typing import Any

from google.api_core import exceptions
from google.cloud import compute_v1
from google.oauth2.credentials import Credentials
from google.protobuf import json_format

PROJECT, ZONE, KIND = "fake-project", "us-central1-a", "e2-standard-2"
WAIT_WITHIN_S = 60
# What the SDK raises when an answer or a body is not as it knows it, or when nobody answers.
FAILURES = (
    exceptions.GoogleAPIError, json_format.Error, AttributeError, KeyError, OSError, TypeError, ValueError
)  # fmt: skip


class Judge:
    """Counts checks and what failed."""

    def __init__(self, url: str, token: str) -> None:
        self.checks: list[str] = []
        self.failed: list[str] = []
        self._scheme, _, self._host = url.partition("://")
        made: Any = Credentials  # without types
        self._credentials = made(token=token)

    def client(self, name: str) -> Any:
        """A client of the SDK, such as "Instances", that talks to the fake."""
        kind = getattr(compute_v1, f"{name}Client")
        transport = kind.get_transport_class("rest")(
            host=self._host, credentials=self._credentials, url_scheme=self._scheme
        )
        return kind(transport=transport)

    def check(self, what: str, is_so: object) -> None:
        """Note one check."""
        self.checks.append(what)
        if not is_so:
            self.failed.append(what)

    def refused(self, what: str, error: type[Exception], call: Any) -> None:
        """Check that a call raises."""
        try:
            call()
        except error:
            self.check(what, True)
        except FAILURES as other:
            self.check(f"{what}: {type(other).__name__}: {other}", False)
        else:
            self.check(f"{what}: it was not refused", False)


def instance(name: str, kind: str = KIND) -> Any:
    """A machine as a user of the SDK orders one."""
    disk = compute_v1.AttachedDisk(
        boot=True,
        auto_delete=True,
        initialize_params=compute_v1.AttachedDiskInitializeParams(
            source_image="projects/debian-cloud/global/images/family/debian-12", disk_size_gb=10
        ),
    )
    return compute_v1.Instance(
        name=name,
        machine_type=f"zones/{ZONE}/machineTypes/{kind}",
        disks=[disk],
        labels={"judge": "sdk"},
        network_interfaces=[
            compute_v1.NetworkInterface(
                network="global/networks/default",
                access_configs=[compute_v1.AccessConfig(type_="ONE_TO_ONE_NAT")],
            )
        ],
        scheduling=compute_v1.Scheduling(
            provisioning_model="SPOT",
            instance_termination_action="DELETE",
            on_host_maintenance="TERMINATE",
            automatic_restart=False,
        ),
    )


def read(judge: Judge) -> None:
    """Everything that is read only."""
    project = judge.client("Projects").get(project=PROJECT)
    judge.check("projects.get", project.name == PROJECT)
    regions = {region.name: region for region in judge.client("Regions").list(project=PROJECT)}
    judge.check("regions.list", "us-central1" in regions)
    judge.check("quotas", any(one.metric == "CPUS" for one in regions["us-central1"].quotas))
    types = list(judge.client("MachineTypes").list(project=PROJECT, zone=ZONE))
    judge.check("machineTypes.list", any(one.name == KIND and one.guest_cpus == 2 for one in types))
    image = judge.client("Images").get_from_family(project="debian-cloud", family="debian-12")
    judge.check("images.getFromFamily", image.family == "debian-12")
    judge.check("networks.get", judge.client("Networks").get(project=PROJECT, network="default").name)
    judge.check("firewalls.list", list(judge.client("Firewalls").list(project=PROJECT)))
    operations = dict(judge.client("GlobalOperations").aggregated_list(project=PROJECT))
    judge.check("globalOperations.aggregatedList", f"zones/{ZONE}" in operations)


def machines(judge: Judge) -> None:
    """Machines from beginning to end."""
    instances, operations = judge.client("Instances"), judge.client("ZoneOperations")

    def insert(body: Any, request_id: str) -> Any:
        request = compute_v1.InsertInstanceRequest(
            project=PROJECT, zone=ZONE, instance_resource=body, request_id=request_id
        )
        return instances.insert_unary(request=request)

    def over(operation: Any) -> Any:
        return operations.wait(project=PROJECT, zone=ZONE, operation=operation.name, timeout=WAIT_WITHIN_S)

    number = str(uuid.uuid4())
    first = insert(instance("judge-1"), number)
    done = over(first)
    judge.check("insert is over", done.status == compute_v1.Operation.Status.DONE)
    judge.check("insert went well", not done.error.errors)
    judge.check("insert again is the same", insert(instance("judge-1"), number).name == first.name)
    judge.refused(
        "a name that is taken", exceptions.Conflict, lambda: insert(instance("judge-1"), str(uuid.uuid4()))
    )
    judge.refused(
        "a type that is not there",
        exceptions.NotFound,
        lambda: insert(instance("judge-2", "z9-none-1"), str(uuid.uuid4())),
    )
    found = instances.get(project=PROJECT, zone=ZONE, instance="judge-1")
    judge.check("runs", found.status == "RUNNING")
    judge.check("has an address", found.network_interfaces[0].access_configs[0].nat_i_p)
    judge.check("keeps its labels", dict(found.labels) == {"judge": "sdk"})
    judge.check("keeps its scheduling", found.scheduling.instance_termination_action == "DELETE")
    request = compute_v1.AggregatedListInstancesRequest(
        project=PROJECT, filter='labels.judge = "sdk"', max_results=1
    )
    listed = [one.name for _, scope in instances.aggregated_list(request=request) for one in scope.instances]
    judge.check("aggregatedList with a filter", listed == ["judge-1"])
    disks = judge.client("Disks").aggregated_list(project=PROJECT)
    judge.check("its disk", any(one.name == "judge-1" for _, scope in disks for one in scope.disks))
    bulk(judge, instances, over)
    gone = over(instances.delete_unary(project=PROJECT, zone=ZONE, instance="judge-1"))
    judge.check("delete is over", gone.status == compute_v1.Operation.Status.DONE)
    judge.refused(
        "gone is gone",
        exceptions.NotFound,
        lambda: instances.get(project=PROJECT, zone=ZONE, instance="judge-1"),
    )


def bulk(judge: Judge, instances: Any, over: Any) -> None:
    """Many machines by one call."""
    template = instance("judge")
    names = ["judge-b1", "judge-b2"]
    properties = compute_v1.InstanceProperties(
        machine_type=KIND,
        disks=template.disks,
        network_interfaces=template.network_interfaces,
        scheduling=template.scheduling,
        labels={"judge": "bulk"},
    )
    operation = instances.bulk_insert_unary(
        project=PROJECT,
        zone=ZONE,
        bulk_insert_instance_resource_resource=compute_v1.BulkInsertInstanceResource(
            count=2, instance_properties=properties, per_instance_properties={name: {} for name in names}
        ),
    )
    done = over(operation)
    judge.check("bulkInsert went well", not done.error.errors)
    request = compute_v1.ListInstancesRequest(project=PROJECT, zone=ZONE, filter='labels.judge = "bulk"')
    listed = sorted(one.name for one in instances.list(request=request))
    judge.check("bulkInsert made all", listed == names)
    for name in names:
        over(instances.delete_unary(project=PROJECT, zone=ZONE, instance=name))


def bodies(judge: Judge, pairs: list[list[Any]]) -> None:
    """Each body is read with every field known, and says the same when it is written again."""
    kinds = {
        "instances.insert": compute_v1.Instance,
        "instances.bulkInsert": compute_v1.BulkInsertInstanceResource,
        "firewalls.insert": compute_v1.Firewall,
    }
    judge.check("there are bodies", pairs)
    judge.refused(
        "a field that there is not",
        json_format.ParseError,
        lambda: compute_v1.Instance.from_json('{"machine_typ": "x"}', ignore_unknown_fields=False),
    )
    for method, body in pairs:
        kind = kinds[method]
        try:
            message = kind.from_json(json.dumps(body), ignore_unknown_fields=False)
            said = json.loads(kind.to_json(message, including_default_value_fields=False))
        except FAILURES as error:
            judge.check(f"{method}: {str(error)[:300]}", False)
            continue
        asked, kept = (one.get("instanceProperties", one) for one in (body, said))
        judge.check(f"{method}: fields were lost", {"description"} <= asked.keys() <= kept.keys())


def main(url: str, token: str, file: str) -> int:
    """Judge, and say what was found."""
    judge = Judge(url, token)
    for part in (read, machines):
        try:
            part(judge)
        except FAILURES as error:
            judge.check(f"{part.__name__}: {type(error).__name__}: {str(error)[:300]}", False)
    bodies(judge, json.loads(Path(file).read_text()))
    sys.stdout.write(json.dumps({"checks": judge.checks, "failed": judge.failed}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
