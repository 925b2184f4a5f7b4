"""Between us and a real engine: acts out `Controls`, and checks every request against docker's own schema."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from socket import AF_UNIX, SHUT_RDWR, SHUT_WR
from socket import socket as Socket
from typing import Any

import yaml
from jsonschema import Draft4Validator

from tests.fakes.controls import Controls
from tests.fakes.schemas import schema_file

SCHEMA = "docker-engine-v1.41.yaml"
_NAMES = (
    ("create", r"POST .*/containers/create"),
    ("start", r"POST .*/containers/[^/]+/start"),
    ("remove", r"DELETE .*/containers/"),
    ("list", r"GET .*/containers/json"),
    ("inspect", r"GET .*/containers/[^/]+/json"),
    ("pull", r"POST .*/images/create"),
    ("networks", r"GET .*/networks"),
    ("exec", r"POST .*/exec"),
)


@dataclass
class Proxy:
    """A socket that leads to an engine's.

    Attributes:
        controls: what goes wrong next; calls are named as in `_NAMES`.
        asked: every request as (method, path without version and query, body).
    """

    socket: Path
    upstream: Path
    controls: Controls = field(default_factory=Controls)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)

    def serve(self, connection: Socket) -> None:
        """Pass on one connection's requests, one upstream connection for each."""
        with connection, suppress(OSError):
            held = b""
            while True:
                head, held = _head(connection, held)
                if not head:
                    return
                size = int(_header(head, b"content-length") or 0)
                while len(held) < size:
                    held += _some(connection)
                body, held = held[:size], held[size:]
                if not self._pass(connection, head, body):
                    return

    def _pass(self, connection: Socket, head: bytes, body: bytes) -> bool:
        """Pass one request on; whether the connection can be used again."""
        line = head.split(b"\r\n", 1)[0].decode()
        method, target, _ = line.split(" ", 2)
        path = re.sub(r"^/v[\d.]+", "", target.partition("?")[0])
        said = json.loads(body) if body else None
        self.asked.append((method, path, said))
        self._check(method, path, said)
        call = next((name for name, pattern in _NAMES if re.match(pattern, line)), "other")
        failure = self.controls.arrived(call)
        if failure == "throttle":
            return _answer(connection, 429, "too many requests")
        if failure == "fail_before":
            return _answer(connection, 500, "planted: something odd")
        if failure == "cut_before":
            return False
        with Socket(AF_UNIX) as upstream:
            upstream.connect(str(self.upstream))
            is_upgrade = _header(head, b"upgrade") is not None
            if not is_upgrade:
                head = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head)
                head = head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            upstream.sendall(head + b"\r\n\r\n" + body)
            if is_upgrade:
                back = threading.Thread(target=_relay, args=(connection, upstream), daemon=True)
                back.start()
                _relay(upstream, connection)
                return False
            answer = b""
            while part := upstream.recv(65536):
                if failure is None:
                    connection.sendall(part)
                answer += part
        if failure == "fail_after":
            return _answer(connection, 500, "planted: something odd")
        return False

    def _check(self, method: str, path: str, said: Any) -> None:
        """Note what breaks the schema."""
        judge = judge_of_bodies()
        if judge is None or not isinstance(said, dict):
            return
        for text in judge.complaints(method, path, said):
            self.controls.violated(text)


class Judge:
    """Docker's Swagger 2 schema of the bodies that we send."""

    def __init__(self, file: Path) -> None:
        self._schema = yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self._named = {
            ("POST", path): _body_of(operation["post"])
            for path, operation in self._schema["paths"].items()
            if "post" in operation
        }

    def complaints(self, method: str, path: str, said: dict[str, Any]) -> list[str]:
        """Words for everything that the schema does not allow, or does not know."""
        template = re.sub(r"/(containers|exec)/[0-9a-f]{64}", r"/\1/{id}", path)
        schema = self._named.get((method, template))
        if schema is None:
            return [f"{method} {path}: the schema knows no body of it"]
        validator = Draft4Validator(schema | {"definitions": self._schema["definitions"]})
        found = [f"{path}: {error.json_path}: {error.message}" for error in validator.iter_errors(said)]
        return found + [f"{path}: {name} is not in the schema" for name in self._unknown(schema, said)]

    def _unknown(self, schema: dict[str, Any], said: Any, at: str = "$") -> Iterator[str]:
        """Keys that the schema does not name: the engine would take no notice of them."""
        known, is_open = self._properties(schema)
        if isinstance(said, list):
            for item in said:
                yield from self._unknown(schema.get("items", {}), item, f"{at}[]")
        if not isinstance(said, dict) or not known:
            return
        for key, value in said.items():
            if key in known:
                yield from self._unknown(self._resolved(known[key]), value, f"{at}.{key}")
            elif not is_open:
                yield f"{at}.{key}"

    def _properties(self, schema: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        schema = self._resolved(schema)
        known = dict(schema.get("properties", {}))
        is_open = "additionalProperties" in schema
        for part in schema.get("allOf", ()):
            more, also_open = self._properties(part)
            known |= more
            is_open = is_open or also_open
        return known, is_open

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema:
            schema = self._schema["definitions"][schema["$ref"].rpartition("/")[2]]
        return schema


def _body_of(operation: dict[str, Any]) -> dict[str, Any]:
    for parameter in operation.get("parameters", ()):
        if parameter.get("in") == "body":
            schema: dict[str, Any] = parameter["schema"]
            return schema
    return {}


@cache
def judge_of_bodies() -> Judge | None:
    """The schema of bodies, where it is there."""
    file = schema_file(SCHEMA)
    return None if file is None else Judge(file)


@contextmanager
def proxied(upstream: Path, directory: Path) -> Iterator[Proxy]:
    """A proxy before an engine's socket; its own is in `directory`, whose path has to be short."""
    proxy = Proxy(directory / "proxy.sock", upstream)
    with Socket(AF_UNIX) as server:
        server.bind(str(proxy.socket))
        server.listen(64)

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=proxy.serve, args=(connection,), daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield proxy
        server.shutdown(SHUT_RDWR)
        accepting.join(5)


def _head(connection: Socket, held: bytes) -> tuple[bytes, bytes]:
    while b"\r\n\r\n" not in held:
        part = connection.recv(65536)
        if not part:
            return b"", b""
        held += part
    head, _, rest = held.partition(b"\r\n\r\n")
    return head, rest


def _some(connection: Socket) -> bytes:
    part = connection.recv(65536)
    if not part:
        raise ConnectionResetError
    return part


def _header(head: bytes, name: bytes) -> bytes | None:
    found = re.search(rb"(?im)^" + name + rb":\s*([^\r]*)", head)
    return None if found is None else found[1]


def _answer(connection: Socket, status: int, message: str) -> bool:
    body = json.dumps({"message": message}).encode()
    head = (
        f"HTTP/1.1 {status} Planted\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return True


def _relay(source: Socket, sink: Socket) -> None:
    with suppress(OSError):
        while part := source.recv(65536):
            sink.sendall(part)
        sink.shutdown(SHUT_WR)
