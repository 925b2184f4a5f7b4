"""aws over real HTTP, in threads of this process: moto, and a layer in front for what moto does not do.

The layer honours client tokens, runs out of capacity, delays states, lags listings, answers CreateFleet,
prices and quotas, takes machines back with a notice, and boots guests. All other calls are moto's own.
"""

import json
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import moto.settings
from moto.backends import get_backend
from moto.ec2.models import amis
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.utilities.utils import load_resource

from tests.fakes.aws.base import ACCOUNT, AwsRefused, Call, backend
from tests.fakes.aws.ec2 import Ec2
from tests.fakes.aws.model import Params, judge_answer, read_answer, read_request
from tests.fakes.controls import Controls, Environ, Faulty, StartResponse, WSGIApp
from tests.fakes.guests import Guests
from tests.fakes.metadata import Imds, MetadataServers
from tests.fakes.serving import served

ACCESS_KEY, SECRET_KEY = "AKIAFAKEFAKEFAKEFAKE", "fake/secret/key/of/forty/characters/long"
QUEUE = "everpool-notices"


@dataclass
class AwsFake:
    """An account of aws; one at a time in a process, since moto keeps its state there.

    Attributes:
        app: what `served` serves.
        denied: operations that the credentials may not do, such as "RunInstances".
        prices: dollars an hour on demand, by type; None: the price list can't be read.
        metadata: of machines that are guests, told of notices besides the queue.
        quota: vCPUs that may run.
    """

    controls: Controls = field(default_factory=Controls)
    guests: Guests | None = None
    ssh_port: int = 22
    ssh_user: str = "ec2-user"
    imds: MetadataServers | None = None  # gives each guest its own metadata service
    zones: dict[str, str] = field(default_factory=dict)  # moto's zone -> what it is called here
    denied: set[str] = field(default_factory=set)
    access_keys: set[str] = field(default_factory=lambda: {ACCESS_KEY})
    prices: dict[str, float] | None = field(
        default_factory=lambda: {
            "m7g.medium": 0.0408,
            "t3.small": 0.0208,
            "t3.medium": 0.0416,
            "t3.large": 0.0832,
        }
    )
    quota: float = 64.0
    odd_products: list[str] = field(default_factory=list)  # of the price list, besides those of `prices`
    page: int = 1000  # machines on a page of a listing at most
    any_key: bool = False  # every access key is good
    answer_with: dict[str, tuple[str, str]] = field(default_factory=dict)  # code and message, by operation
    metadata: dict[str, Imds] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._queues: set[str] = set()
        self._timers: list[threading.Timer] = []
        moto.settings.EC2_ENABLE_INSTANCE_TYPE_VALIDATION = True
        moto.settings.ENABLE_AMI_VALIDATION = True
        setattr(amis, "load_resource", _without_ecs)  # noqa: B010 - a name that moto only imports there
        reset()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.ec2 = Ec2(self)
        self.app: WSGIApp = Faulty(
            self._answer,
            self.controls,
            name=lambda environ: _call(environ).operation,
            refused=lambda _: self._failing("RequestLimitExceeded", "Request limit exceeded.", 503),
            broken=lambda _: self._failing("InternalError", "An internal error has occurred", 500),
        )

    # --- what happens to machines -----------------------------------------------------------------

    def preempt(self, ref: str, within_s: float | None = 120.0, *, end: bool = True) -> None:
        """Take a machine: queue and metadata tell, and it ends at the deadline.

        `within_s` None: a rebalance recommendation, which nothing follows.
        """
        metadata = self.metadata.get(ref)
        if within_s is None:
            if metadata is not None:
                metadata.rebalance()
            self.push(ref, "EC2 Instance Rebalance Recommendation", {"instance-id": ref})
            return
        if metadata is not None:
            metadata.notice(within_s)
        # aws always says so two minutes ahead: the deadline is reckoned from the event's time.
        detail = {"instance-id": ref, "instance-action": "terminate"}
        self.push(ref, "EC2 Spot Instance Interruption Warning", detail, at=time.time() + within_s - 120.0)
        if end:
            timer = threading.Timer(within_s, self.end, [ref])
            timer.daemon = True
            self._timers.append(timer)
            timer.start()

    def push(
        self,
        ref: str,
        kind: str,
        detail: dict[str, Any],
        *,
        at: float | None = None,
        event_id: str | None = None,
    ) -> None:
        """Send an event as EventBridge does to a queue (unless pushes are lost).

        Straight into the queue: moto's event bus knows no `time` but a number, and the vendor's is text.
        """
        region = self.ec2.life(ref).region
        if self.controls.lose_push or region not in self._queues:
            return
        moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
        event = {
            "version": "0",
            "id": str(uuid.uuid4()) if event_id is None else event_id,
            "detail-type": kind,
            "source": "aws.ec2",
            "account": ACCOUNT,
            "time": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": region,
            "resources": [f"arn:aws:ec2:{region}:{ACCOUNT}:instance/{ref}"],
            "detail": detail,
        }
        self.say(json.dumps(event), region=region)

    def say(self, body: str, *, region: str = "us-east-1") -> None:
        """Put any message into a region's queue."""
        with self._lock:
            backend("sqs", region).send_message(QUEUE, body)

    def make_queue(self, region: str = "us-east-1") -> str:
        """Make the queue that events of ec2 are sent to; returns its URL."""
        with self._lock:
            backend("sqs", region).create_queue(QUEUE, {})
        self._queues.add(region)
        return f"https://sqs.{region}.amazonaws.com/{ACCOUNT}/{QUEUE}"

    def age_messages(self, seconds: float, region: str = "us-east-1") -> None:
        """All messages were sent so much earlier."""
        for message in backend("sqs", region).get_queue(QUEUE)._messages:
            message.sent_timestamp -= int(seconds * 1000)

    def queued(self, region: str = "us-east-1") -> int:
        """Messages that nobody has deleted."""
        return len(backend("sqs", region).get_queue(QUEUE)._messages)

    def end(self, ref: str) -> None:
        """The market takes a machine, at once."""
        self.ec2.ended(
            ref, "Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance taken"
        )

    def kill(self, ref: str) -> None:
        """A machine ends itself, without a word to anybody."""
        self.ec2.ended(
            ref, "Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: by the machine"
        )

    def stop(self, ref: str) -> None:
        """A machine is stopped, and its disks are kept."""
        with self._lock:
            backend("ec2", self.ec2.life(ref).region).stop_instances([ref])
            self.ec2.life(ref).stopped = True

    def orphan(self, key: str, *, region: str = "us-east-1", epoch: int = 1) -> str:
        """Make a machine behind everybody's back, with our owner's mark."""
        owner, pool, *_ = key.split("/")
        marks = {
            "everpool-owner": owner,
            "everpool-key": key,
            "everpool-pool": pool,
            "everpool-epoch": str(epoch),
        }
        return self.ec2.made(region, marks)

    def foreign(self, *, name: str = "everpool", region: str = "us-east-1", owner: str | None = None) -> str:
        """Make somebody else's machine, with a name like ours."""
        marks = {"Name": name, "project": "everpool-owner"}
        return self.ec2.made(region, marks | ({} if owner is None else {"everpool-owner": owner}))

    def alive(self) -> list[str]:
        """Machines that cost money now."""
        return self.ec2.alive()

    def resources(self) -> list[str]:
        """All that costs or piles up: machines, disks, interfaces, addresses, groups, keys, templates."""
        return self.ec2.resources()

    def close(self) -> None:
        """End timers and guests."""
        for timer in self._timers:
            timer.cancel()
        if self.guests is not None:
            self.guests.close()

    # --- requests ---------------------------------------------------------------------------------

    def _answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        call = _call(environ)
        try:
            status, body, kind = self._judged(call)
        except AwsRefused as refused:
            return _refusal(call, refused)(environ, start_response)
        except Exception as error:  # noqa: BLE001 - a bug of the fake must be seen, not taken for a broken vendor
            self.controls.violated(f"the fake broke at {call.operation}: {traceback.format_exc()}")
            return _refusal(call, AwsRefused("InternalError", repr(error), 500))(environ, start_response)
        start_response(f"{status} -", [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    def _judged(self, call: Call) -> tuple[int, bytes, str]:
        """The answer to one request, both checked against the vendor's model."""
        params = read_request(call.service, call.operation, call.body, self.controls.violated)
        self._allow(call, params)
        if call.service == "sqs":  # polls for long: nobody waits for it
            status, body, kind = self.pass_on(call)
        else:
            with self._lock:
                status, body, kind = self._done(call, params)
        for name, shown in self.zones.items():
            body = body.replace(name.encode(), shown.encode())
        if status < 300:
            fields = read_answer(call.service, call.operation, status, body)
            judge_answer(call.service, call.operation, body, fields, self.controls.violated)
        return status, body, kind

    def _allow(self, call: Call, params: Params) -> None:
        key = call.environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition("/")[0]
        if key not in self.access_keys and not self.any_key:
            code = "AuthFailure" if call.service == "ec2" else "InvalidClientTokenId"
            raise AwsRefused(code, "AWS was not able to validate the provided access credentials", 401)
        if call.region in self.controls.unreachable:
            raise AwsRefused("Unavailable", "The service is unavailable. Please try again shortly.", 503)
        if call.operation in self.denied:
            code = "UnauthorizedOperation" if call.service == "ec2" else "AccessDeniedException"
            raise AwsRefused(code, f"You are not authorized to perform {call.operation}.", 403)
        if "PassRole" in self.denied and "IamInstanceProfile" in params:
            raise AwsRefused("UnauthorizedOperation", "not authorized to perform: iam:PassRole", 403)
        if call.operation in self.answer_with:
            raise AwsRefused(*self.answer_with[call.operation])
        if params.get("DryRun"):
            text = "Request would have succeeded, but DryRun flag is set."
            raise AwsRefused("DryRunOperation", text, 412)

    def _done(self, call: Call, params: Params) -> tuple[int, bytes, str]:
        if call.service == "ec2":
            own = self.ec2.handler(call.operation)
            if own is not None:
                return 200, own(call, params), "text/xml"
        if call.operation == "GetProducts":
            return 200, json.dumps(self._products(params)).encode(), "application/x-amz-json-1.1"
        if call.operation == "GetServiceQuota":
            quota = {"ServiceCode": "ec2", "QuotaCode": params["QuotaCode"], "Value": self.quota}
            return 200, json.dumps({"Quota": quota}).encode(), "application/x-amz-json-1.1"
        return self.pass_on(call)

    def pass_on(self, call: Call, body: bytes | None = None) -> tuple[int, bytes, str]:
        """Let moto answer, this request or another of the same service."""
        environ = dict(call.environ)
        data = call.body if body is None else body
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = BytesIO(data), str(len(data))
        told: list[Any] = []

        def start(
            status: str, headers: list[tuple[str, str]], exc_info: object = None
        ) -> Callable[[bytes], None]:
            told[:] = [int(status.split()[0]), {name.lower(): value for name, value in headers}]
            return lambda data: None

        answer = self._moto(environ, start)
        body = b"".join(answer)
        return told[0], body, str(told[1].get("content-type", "text/xml"))

    def _products(self, params: Params) -> Params:
        if self.prices is None:
            raise AwsRefused("AccessDeniedException", "not authorized to perform: pricing:GetProducts")
        found = []
        for name, dollars in sorted(self.prices.items()):
            dimension = {"unit": "Hrs", "pricePerUnit": {"USD": f"{dollars:.10f}"}}
            terms = {"OnDemand": {f"{name}.T": {"priceDimensions": {f"{name}.T.D": dimension}}}}
            found.append(json.dumps({"product": {"attributes": {"instanceType": name}}, "terms": terms}))
        return {"FormatVersion": "aws_v1", "PriceList": [*self.odd_products, *found]}

    def _failing(self, code: str, message: str, status: int) -> WSGIApp:
        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            return _refusal(_call(environ), AwsRefused(code, message, status))(environ, start_response)

        return app


@contextmanager
def aws(**settings: Any) -> Iterator[tuple[AwsFake, str]]:
    """A fake account being served, and its URL."""
    fake = AwsFake(**settings)
    try:
        with served(fake.app) as url:
            yield fake, url
    finally:
        fake.close()


def credentials(directory: Path) -> dict[str, Any]:
    """Keys of a config that hold the fake's credentials, in files in `directory`."""
    found = {}
    for name, secret in (("access_key_id", ACCESS_KEY), ("secret_access_key", SECRET_KEY)):
        path = directory / name
        path.write_text(secret)
        path.chmod(0o600)
        found[name] = {"file": str(path)}
    return found


def reset() -> None:
    """Forget all that moto remembers of the services that we use."""
    for backends in map(_backends, ("ec2", "ssm", "sqs", "sts")):
        for account in list(backends.values()):
            for one in list(account.values()):
                one.reset()


def _without_ecs(path: str) -> Any:
    """moto's own files, but the 1,200 images of ECS, which nobody asks for: they are half a second a fake."""
    if "/ecs/" in path:
        raise FileNotFoundError(path)
    return load_resource(path)


def _backends(name: Any) -> Any:
    return get_backend(name)


def _call(environ: Environ) -> Call:
    """What a request is. Its body can be read again afterwards."""
    known = environ.get("fake.call")
    if isinstance(known, Call):
        return known
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = BytesIO(body)
    scope = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition(",")[0].split("/")
    region, service = (scope[2], scope[3]) if len(scope) == 5 else ("us-east-1", "sts")
    service = {"servicequotas": "service-quotas"}.get(service, service)
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        operation = target.rpartition(".")[2]
    else:
        fields = dict(part.partition("=")[::2] for part in body.decode().split("&"))
        operation = fields.get("Action", "?")
    call = environ["fake.call"] = Call(service, region, operation, environ, body)
    return call


def _refusal(call: Call, refused: AwsRefused) -> WSGIApp:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        code, message = refused.code, refused.message
        if call.service == "ec2":
            error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            text = f"<Response><Errors>{error}</Errors><RequestID>fake</RequestID></Response>"
            kind = "text/xml"
        elif call.service == "sts":
            error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            text = f"<ErrorResponse>{error}<RequestId>fake</RequestId></ErrorResponse>"
            kind = "text/xml"
        else:
            text, kind = json.dumps({"__type": code, "message": message}), "application/x-amz-json-1.1"
        body = text.encode()
        start_response(f"{refused.status} -", [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    return app
