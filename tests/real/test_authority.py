"""Every route of a real daemon, over TCP, for every kind of token; and every answer against its document."""

import re
import secrets
import socket
from collections.abc import Iterator

import httpx2 as httpx
import pytest

from controller.api.authority import NEEDS, NOBODY, Needs
from controller.client import Client, EverpoolError
from controller.principal import Scope
from tests.controller.api.documented import held_against, problem
from tests.real.conftest import made
from tests.real.rig import Rig, until

pytestmark = pytest.mark.real
SAME_FOR_ALL = ("/", "/openapi.json")
UNKNOWN = ("wrong", "expired", "revoked")  # who shows something, and is nobody
SCOPES = {"read": Scope.READ, "submit": Scope.SUBMIT, "admin": Scope.ADMIN, "foreign": Scope.ADMIN}
THEIRS = re.compile(r"\{(pool|instance_id|task_id|request_id)\}|/v1/pools/\{name\}")  # of the pool main


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Rig, str, dict[str, str], dict[str, str]]]:
    """A daemon on TCP, tokens of every kind, and what paths name: a pool, its machine and a task of it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with made() as rig:
        own = rig.root / "token"
        own.touch(mode=0o600)
        own.write_text(secrets.token_urlsafe(32))
        limits = "limits = { refused_per_minute = 100000, requests_per_s = 100000 }"
        rig.configure(daemon=f'listen = "127.0.0.1:{port}"\ntoken_file = "{own}"\n{limits}')
        rig.start()
        assert rig.up("main", nodes=1).status == "success" and rig.up("ci-1", nodes=0).status == "success"
        done = rig.run("echo to be seen")
        names = {"name": "main", "pool": "main", "group": "main", "path": "x"}
        names |= {"task_id": done.task_id, "request_id": done.task_id, "instance_id": rig.machine_of()}
        tokens = {
            kind: rig.client.create_token(kind, scope=scope.name.lower()).token
            for kind, scope in SCOPES.items()
            if kind != "foreign"
        }
        tokens["foreign"] = rig.client.create_token("foreign", scope="admin", pools=["ci-*"]).token
        tokens["expired"] = rig.client.create_token("expired", scope="admin", expires_in_s=0.2).token
        tokens["revoked"] = rig.client.create_token("revoked", scope="admin").token
        rig.client.revoke_token("revoked")
        tokens["wrong"] = "evp_" + secrets.token_urlsafe(32)
        url = f"http://127.0.0.1:{port}"
        until(lambda: _refused(url, tokens["expired"]), "a token expires")
        yield rig, url, tokens, names


def _refused(url: str, token: str) -> bool:
    with Client(url, token=token) as everpool:
        try:
            everpool.whoami()
        except EverpoolError as error:
            return error.status == 401 and "expired" in error.message
    return False


def test_every_route_for_every_token(place: tuple[Rig, str, dict[str, str], dict[str, str]]) -> None:
    """Each is let in, or refused, as the table says; and nothing that they hear breaks the contract."""
    rig, url, tokens, names = place
    with Client(rig.state / "api.sock") as everpool:
        before = len(everpool.tokens())
    wrong: list[str] = []
    with httpx.Client(base_url=url, timeout=30) as http:
        admin = {"Authorization": f"Bearer {tokens['admin']}"}
        document = http.get("/openapi.json", headers=admin).json()
        with held_against(document):
            for kind in ("none", *UNKNOWN, *SCOPES):
                headers = {"Authorization": f"Bearer {tokens[kind]}"} if kind in tokens else {}
                for (method, template), needed in NEEDS.items():
                    path = re.sub(r"\{(\w+)\}", lambda match: names[match[1]], template)
                    answer = http.request(method, path, headers=headers)
                    told = f"{kind}: {method} {path} -> {answer.status_code} {answer.text[:200]}"
                    if not _right(kind, template, needed, answer.status_code):
                        wrong.append(told)
                    if kind == "foreign" and template not in SAME_FOR_ALL and '"main' in answer.text:
                        wrong.append(f"{told}: names what is not theirs")
                    said = dict(answer.headers)
                    broken = problem(method, path, answer.status_code, said, answer.content)
                    if broken is not None:
                        wrong.append(f"{told}: {broken}")
    assert not wrong, "\n".join(wrong)
    assert len(rig.client.tokens()) == before and rig.client.pool("main").status == "ready"


def _right(kind: str, template: str, needed: Needs, status: int) -> bool:
    """Whether an answer is what the table of scopes says."""
    if kind == "none":
        return status != 401 if needed == NOBODY else status == 401
    if kind in UNKNOWN:
        return status == 401
    if needed.scope is not None and SCOPES[kind] < needed.scope:
        return status == 403
    if kind == "foreign" and needed.whole:
        return status == 403
    if kind == "foreign" and THEIRS.search(template):
        return status == 404
    return status not in (401, 403) and status < 500
