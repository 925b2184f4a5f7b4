"""What /openapi.json says of routes beyond what FastAPI knows: errors, answers, and examples of bodies."""

from typing import Any

from controller import client_views as v
from controller.api.answers import NDJSON
from controller.telemetry.exposition import CONTENT_TYPE

Json = dict[str, Any]


def ref(name: str) -> Json:
    """A schema of the document's components."""
    return {"$ref": f"#/components/schemas/{name}"}


def _one(view: type[v.View]) -> Json:
    return ref(view.__name__)


def _list(view: type[v.View]) -> Json:
    return {"type": "array", "items": _one(view)}


_PAGE_OF_TASKS = {
    "type": "object",
    "required": ["tasks", "cursor"],
    "properties": {
        "tasks": _list(v.TaskView),
        "cursor": {"type": ["integer", "null"], "description": "goes on behind the page; null: no more"},
    },
}
_OPERATION = {
    "allOf": [
        _one(v.OperationView),
        {
            "type": "object",
            "required": ["end", "log", "cursor", "more"],
            "properties": {
                "end": {"description": "the terminal Fact", "anyOf": [{"type": "object"}, {"type": "null"}]},
                "log": _list(v.EntryView),
                "cursor": {"type": "integer", "description": "goes on behind the log that is here"},
                "more": {"type": "boolean"},
            },
        },
    ]
}

ANSWERS: dict[tuple[str, str], Json] = {
    ("get", "/v1/pools"): _list(v.PoolView),
    ("get", "/v1/pools/{name}"): _one(v.PoolView),
    ("get", "/v1/nodes"): _list(v.NodeView),
    ("get", "/v1/instances"): _list(v.InstanceView),
    ("get", "/v1/instances/{instance_id}"): _one(v.InstanceView),
    ("get", "/v1/instances/{instance_id}/ssh"): _one(v.SshView),
    ("get", "/v1/tasks"): _PAGE_OF_TASKS,
    ("get", "/v1/tasks/{task_id}"): _one(v.TaskView),
    ("get", "/v1/tasks/{task_id}/files"): _list(v.FileView),
    ("get", "/v1/operations"): _list(v.OperationView),
    ("get", "/v1/operations/{request_id}"): _OPERATION,
    ("get", "/v1/offers"): _one(v.OffersView),
    ("get", "/v1/cost"): _one(v.CostView),
    ("get", "/v1/cost/{pool}"): _one(v.PoolCostView),
    ("get", "/v1/explain/{pool}"): _one(v.ExplainView),
    ("get", "/v1/explain/{pool}/tasks/{task_id}"): _one(v.TaskWhyView),
    ("get", "/v1/explain/{pool}/instances/{instance_id}"): _one(v.InstanceWhyView),
    ("get", "/v1/sd"): _list(v.TargetView),
    ("get", "/v1/whoami"): _one(v.PrincipalView),
    ("get", "/v1/tokens"): _list(v.TokenView),
    ("post", "/v1/tokens"): _one(v.MadeTokenView),
    ("delete", "/v1/tokens/{name}"): _one(v.RevokedView),
    ("get", "/v1/secrets"): _list(v.GroupView),
    ("get", "/v1/secrets/{group}"): _one(v.GroupView),
    ("put", "/v1/secrets/{group}"): _one(v.GroupView),
    ("post", "/v1/secrets/{group}"): _one(v.GroupView),
    ("delete", "/v1/secrets/{group}"): _one(v.RemovedView),
    ("get", "/v1/credentials"): _list(v.CredentialView),
    ("put", "/v1/credentials/{name}"): _one(v.CredentialView),
    ("delete", "/v1/credentials/{name}"): _one(v.RemovedView),
    ("post", "/v1/rotate"): _one(v.RotatedView),
    ("get", "/v1/webhooks"): _list(v.WebhookView),
    ("get", "/v1/webhooks/{name}"): _one(v.WebhookView),
    ("post", "/v1/webhooks/{name}/test"): _one(v.TriedView),
    ("post", "/v1/webhooks/{name}/retry"): _one(v.WebhookView),
    ("post", "/v1/hold"): _one(v.HeldView),
    ("post", "/v1/adopt"): _one(v.AdoptedView),
    ("post", "/v1/backup"): _one(v.BackupView),
    ("post", "/v1/reload"): _one(v.ReloadView),
    ("get", "/v1/doctor"): _list(v.DoctorView),
    ("get", "/healthz"): _one(v.HealthView),
    ("get", "/readyz"): _one(v.HealthView),
}
VIEWS: tuple[type[v.View], ...] = tuple(v.View.__subclasses__()) + (v.MadeTokenView, v.PoolCostView)


def _lines(schema: Json) -> Json:
    return {NDJSON: {"schema": {**schema, "description": "each line"}}}


def _told(*kinds: str) -> Json:
    """Lines of telemetry: an event, and where to go on behind it."""
    return _lines(
        {
            "type": "object",
            "required": ["cursor", "event"],
            "properties": {
                "cursor": {"type": "string", "description": "goes on behind the page that this line is of"},
                "event": {"anyOf": [ref(kind) for kind in kinds]},
                "more": {"type": "boolean", "description": "more lines of this page follow"},
            },
        }
    )


_SERIES = {CONTENT_TYPE.partition(";")[0]: {"schema": {"type": "string"}}}
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
CONTENTS: dict[str, Json] = {  # answers that are no JSON value
    "/v1/tasks/{task_id}/log": {**_lines(ref("LogLine")), **_TEXT},
    "/v1/instances/{instance_id}/console": _lines(ref("LogLine")),
    "/v1/telemetry/log": _told("Log"),
    "/v1/telemetry/console": _told("ConsoleOutput"),
    "/v1/telemetry/metrics": _told("Metric"),
    "/v1/tasks/{task_id}/files/{path}": {"application/octet-stream": {"schema": {"type": "string"}}},
    "/metrics": _SERIES,
    "/metrics/instances": _SERIES,
}

_NO_KEY = "There is no key to keep secrets with, or what is kept can't be decrypted with it"
_NOT_THERE = "It is not there, or not for you to see; the nearest that is there is named"
PROBLEMS: dict[tuple[str, str], dict[str, str]] = {
    ("get", "/v1/doctor"): {"404": "There is no such provider in the config"},
    ("get", "/v1/telemetry/log"): {"404": _NOT_THERE},
    ("get", "/v1/telemetry/console"): {"404": _NOT_THERE},
    ("get", "/v1/telemetry/metrics"): {"404": _NOT_THERE},
    ("get", "/v1/offers"): {"404": "There is no such pool or provider; the nearest that is there is named"},
    ("get", "/v1/instances/{instance_id}/ssh"): {"409": "It has no address any more, or yet"},
    ("get", "/v1/explain/{pool}/instances/{instance_id}"): {"500": "Its state can't be read any more"},
    ("post", "/v1/hold"): {"404": "There is no such pool; the nearest that is there is named"},
    ("post", "/v1/backup"): {"422": "The path is no good, or the copy failed: nothing is left behind"},
    ("post", "/v1/reload"): {
        "422": "The config is wrong, a line of `detail` for each problem: nothing was changed"
    },
    ("post", "/v1/tokens"): {"409": "There is a token of that name, or there are too many"},
    ("post", "/v1/rotate"): {"409": _NO_KEY},
    ("put", "/v1/secrets/{group}"): {"409": _NO_KEY},
    ("post", "/v1/secrets/{group}"): {"409": _NO_KEY},
    ("delete", "/v1/secrets/{group}"): {"409": "A living task names it: end that, or use `force`"},
    ("put", "/v1/credentials/{name}"): {"409": f"Another login is for this registry. {_NO_KEY}"},
    ("delete", "/v1/credentials/{name}"): {"409": "The image of a living pool is from there, or use `force`"},
}
OF_A_BODY = {
    "400": "The connection ended before the body had come",
    "413": "The body is too large",
    "415": "Not JSON: send Content-Type: application/json",
    "422": "The body or a parameter is wrong: `error`, or a line of `detail` each, says where",
}
BODIES: dict[tuple[str, str], Json] = {
    ("post", "/v1/hold"): {"pool": "main", "seconds": 3600},
    ("post", "/v1/backup"): {"path": "/var/backups/everpool.sqlite3"},
    ("post", "/v1/tokens"): {"name": "ci", "scope": "submit", "pools": ["ci-*"], "expires_in_s": 86_400},
    ("put", "/v1/secrets/{group}"): {"values": {"API_KEY": "not-a-real-one"}, "pools": ["ci-*"]},
    ("post", "/v1/secrets/{group}"): {"values": {"API_KEY": "another-one", "OLD_KEY": None}},
    ("put", "/v1/credentials/{name}"): {
        "hostname": "registry.example.org",
        "user": "puller",
        "password": "not-a-real-one",
    },
}
