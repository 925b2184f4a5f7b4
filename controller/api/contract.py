"""What /openapi.json says of routes beyond what FastAPI knows: errors, answers, and examples of bodies."""

from typing import Any

from controller.api.answers import NDJSON
from controller.telemetry.exposition import CONTENT_TYPE

Json = dict[str, Any]
_WORDS: dict[str, Json] = {
    "text": {"type": "string"},
    "int": {"type": "integer"},
    "number": {"type": "number"},
    "yes": {"type": "boolean"},
    "texts": {"type": "array", "items": {"type": "string"}},
    "object": {"type": "object"},
    "objects": {"type": "array", "items": {"type": "object"}},
}


def _of(fields: str) -> Json:
    """The schema of an object: `name:kind` for each field; with `?` it may be null, with `~` be missing."""
    properties: dict[str, Json] = {}
    required: list[str] = []
    for field in fields.split():
        name, _, kind = field.partition(":")
        schema = _WORDS[kind.strip("?~")]
        properties[name] = {"anyOf": [schema, {"type": "null"}]} if "?" in kind else schema
        if "~" not in kind:
            required.append(name)
    return {"type": "object", "required": required, "properties": properties}


def _list(schema: Json) -> Json:
    return {"type": "array", "items": schema}


_TOKEN = _of(
    "name:text scope:text pools:texts hint:text made_at:number made_by:text expires_at:number? "
    "expired:yes last_used:number?"
)
_MADE = {
    **_TOKEN,
    "required": ["token", *_TOKEN["required"]],
    "properties": {"token": {"type": "string"}, **_TOKEN["properties"]},
}
_GROUP = _of("group:text revision:int keys:texts pools:texts at:number by:text readable:yes")
_GROUP_WHOLE = {**_GROUP, "properties": {**_GROUP["properties"], "revisions": _WORDS["objects"]}}
_LOGIN = _of("name:text hostname:text user:text at:number by:text readable:yes")
_WEBHOOK = _of(
    "name:text url:text events:texts pools:texts cursor:int behind:int replies:int delivered:int "
    "delivered_at:number? dropped:int failing_since:number? tries:int last_error:text? last_status:int? "
    "next_try_at:number?"
)
_SUMS = "usd_per_hour:number today_usd:number forecast_usd:number total_usd:number"
_HEALTH = _of("live:yes ready:yes reasons:texts~")
_WHY = _of("pool:text at:number task:object~ instance:object~ story:texts log:objects")

ANSWERS: dict[tuple[str, str], Json] = {
    ("get", "/v1/whoami"): _of("name:text scope:text pools:texts"),
    ("get", "/v1/tokens"): _list(_TOKEN),
    ("post", "/v1/tokens"): _MADE,
    ("delete", "/v1/tokens/{name}"): _of("revoked:text"),
    ("get", "/v1/secrets"): _list(_GROUP),
    ("get", "/v1/secrets/{group}"): _GROUP_WHOLE,
    ("put", "/v1/secrets/{group}"): _GROUP,
    ("post", "/v1/secrets/{group}"): _GROUP,
    ("delete", "/v1/secrets/{group}"): _of("group:text removed:yes"),
    ("get", "/v1/credentials"): _list(_LOGIN),
    ("put", "/v1/credentials/{name}"): _LOGIN,
    ("delete", "/v1/credentials/{name}"): _of("name:text removed:yes"),
    ("post", "/v1/rotate"): {"type": "object"},
    ("get", "/v1/webhooks"): _list(_WEBHOOK),
    ("get", "/v1/webhooks/{name}"): _WEBHOOK,
    ("post", "/v1/webhooks/{name}/test"): _of(
        "webhook:text taken:yes status:int? error:text answer:text took_s:number"
    ),
    ("post", "/v1/webhooks/{name}/retry"): _WEBHOOK,
    ("post", "/v1/hold"): _of("pools:texts until:number"),
    ("post", "/v1/adopt"): _of("adopted:yes why:text~ epoch:int~"),
    ("post", "/v1/backup"): _of("path:text bytes:int keys:text~ owner:text~ epoch:int~"),
    ("post", "/v1/reload"): {"type": "object", "required": ["applied"]},
    ("get", "/v1/doctor"): _WORDS["objects"],
    ("get", "/healthz"): _HEALTH,
    ("get", "/readyz"): _HEALTH,
    ("get", "/v1/sd"): _list(_of("targets:texts labels:object")),
    ("get", "/v1/offers"): _of("at:number offers:objects count:int steps:objects providers:objects"),
    ("get", "/v1/cost"): _of(f"pools:objects {_SUMS} since:number unknown_usd:number unknown:objects"),
    ("get", "/v1/cost/{pool}"): _of(
        f"pool:text status:text {_SUMS} budget:object? days:objects day:text wasted_hour_usd:number "
        "since:number by_market:objects by_kind:object wasted_usd:number tasks:object"
    ),
    ("get", "/v1/explain/{pool}"): _of(
        "pool:text at:number status:text reason:text paused:object? desired:int ready:int wanted:object "
        "there:object missing:objects missing_count:int funnel:objects next:objects "
        "next_at:number? story:texts"
    ),
    ("get", "/v1/explain/{pool}/tasks/{task_id}"): _WHY,
    ("get", "/v1/explain/{pool}/instances/{instance_id}"): _WHY,
    ("get", "/v1/tasks/{task_id}"): _of(  # of a task that ended long ago less is known than of others
        "id:text name:text pool:text seq:int status:text status_code:int attempt:int node:int? "
        "instance_id:text? result:text? reason:text exit_code:int? duration:number? error:text? "
        "started_at:number? ended_at:number?"
    ),
    ("get", "/v1/tasks/{task_id}/files"): _list(_of("attempt:int path:text bytes:int error:text?")),
    ("get", "/v1/operations/{request_id}"): _of(
        "request_id:text kind:text pool:text status:text seq:int at:number ended_by:int? ended_at:number? "
        "error:text? end:object? log:objects cursor:int more:yes"
    ),
    ("get", "/v1/instances/{instance_id}/ssh"): _of(
        "instance_id:text handle:object address:object ssh_user:text private_key_path:text "
        "known_hosts_path:text container:object?"
    ),
}

_LINES = {NDJSON: {"schema": {"type": "string", "description": "one JSON object a line"}}}
_SERIES = {CONTENT_TYPE.partition(";")[0]: {"schema": {"type": "string"}}}
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
CONTENTS: dict[str, Json] = {  # answers that are no JSON value
    "/v1/tasks/{task_id}/log": {**_LINES, **_TEXT},
    "/v1/instances/{instance_id}/console": _LINES,
    "/v1/telemetry/log": _LINES,
    "/v1/telemetry/console": _LINES,
    "/v1/telemetry/metrics": _LINES,
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
