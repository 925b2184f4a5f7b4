"""What engines' answers mean. The texts are docker 20.10's and podman 4.3's own, as they gave them."""

import pytest

from providers.container.faults import Call, fault_of, message_of
from providers.errors import Fault

NOT_RUNNING = "can only create exec sessions on running containers: container state improper"
IN_USE = 'Conflict. The container name "/e" is already in use by container "c". You have to remove it.'
NO_PYTHON = 'OCI runtime create failed: exec: "python3": executable file not found in $PATH: unknown'
CASES: list[tuple[Call, int, str, Fault | None]] = [
    ("create", 409, IN_USE, Fault.CONFLICT),
    (
        "create",
        500,
        'the container name "e" is already in use by 48: that name is already in use',
        Fault.CONFLICT,
    ),
    ("create", 404, "No such image: localhost/nix:1", Fault.REJECTED),
    (
        "create",
        400,
        'invalid mount config for type "bind": bind source path does not exist: /x',
        Fault.REJECTED,
    ),
    ("create", 400, "Unknown runtime specified nort", Fault.REJECTED),
    ("create", 400, "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available", Fault.REJECTED),
    ("create", 500, "something new", None),
    ("create", 500, "write /var/lib: no space left on device", Fault.CAPACITY),
    ("create", 503, "busy", Fault.THROTTLED),
    ("start", 400, NO_PYTHON, Fault.REJECTED),
    ("start", 500, f"runc: {NO_PYTHON}: command that was not found", Fault.REJECTED),
    ("start", 500, "unable to find user nouser: no matching entries in passwd file", Fault.REJECTED),
    ("start", 404, "No such container: e", Fault.GONE),
    ("start", 404, "network nosuchnetwork not found", Fault.REJECTED),
    ("start", 409, "container is marked for removal and cannot be started", Fault.GONE),
    ("start", 500, "fork/exec: cannot allocate memory", Fault.CAPACITY),
    ("start", 500, "something new", None),
    ("look", 404, "No such container: e", Fault.GONE),
    ("look", 500, "something new", None),
    ("look", 403, "authorization denied by plugin", Fault.CREDENTIALS),
    ("look", 429, "too many requests", Fault.THROTTLED),
    ("exec", 409, "Container c6 is not running", Fault.GONE),
    ("exec", 500, NOT_RUNNING, Fault.GONE),
    ("exec", 404, "No such exec instance", Fault.GONE),
    ("remove", 409, "removal of container c6 is already in progress", Fault.GONE),
    ("remove", 500, "driver failed", None),
    ("network", 409, "network with name evnet already exists", Fault.CONFLICT),
    ("network", 500, "network name evnet already used: network already exists", Fault.CONFLICT),
    ("network", 403, "error while removing network: network n id 6 has active endpoints", Fault.CONFLICT),
    ("network", 500, '"n" has associated containers with it: network is being used', Fault.CONFLICT),
    ("network", 404, "could not find an available, non-overlapping IPv4 address pool", Fault.GONE),
    ("network", 500, "could not find an available, non-overlapping IPv4 address pool", Fault.CAPACITY),
    ("volume", 409, "remove v: volume is in use - [c6]", Fault.CONFLICT),
    ("volume", 500, "volume v is being used by the following container(s)", Fault.CONFLICT),
    ("pull", 404, "pull access denied for nix, repository does not exist", Fault.REJECTED),
    ("pull", 500, "manifest for r/x:1 not found: manifest unknown: manifest unknown", Fault.REJECTED),
    ("pull", 200, "initializing source docker://r/x:1: reading manifest 1: manifest unknown", Fault.REJECTED),
    ("pull", 500, 'Get "http://localhost:5/v2/": dial tcp: connect: connection refused', Fault.NOT_SENT),
    ("pull", 200, "pinging container registry r: lookup r on 10.1.1.1:53: no such host", Fault.NOT_SENT),
    ("pull", 500, "Get https://r/v2/: unauthorized: authentication required", Fault.CREDENTIALS),
    ("pull", 200, "unable to retrieve auth token: invalid username/password", Fault.CREDENTIALS),
    ("pull", 500, "toomanyrequests: You have reached your pull rate limit", Fault.THROTTLED),
    ("pull", 200, "write /layer: no space left on device", Fault.CAPACITY),
    ("pull", 200, "something new", None),
]


@pytest.mark.parametrize(("call", "status", "message", "fault"), CASES)
def test_every_answer_means_what_may_be_done_next(
    call: Call, status: int, message: str, fault: Fault | None
) -> None:
    assert fault_of(call, status, message) is fault


def test_the_message_is_one_line_of_what_was_said() -> None:
    assert message_of(b'{"cause":"c","message":"a \\"b\\"\\n c","response":500}') == 'a "b" c'
    assert message_of(b"plain\ntext") == "plain text"
    assert message_of(b"") == ""
    assert len(message_of(b"x" * 10_000)) == 8192
