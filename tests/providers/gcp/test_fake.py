"""The fake refuses what the vendor's document does not have, and notes it."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from providers.gcp.config import API_VERSION
from tests.fakes.gcp.fake import PROJECT, FakeGcp
from tests.fakes.gcp.filters import BadFilter, parsed
from tests.fakes.gcp.partial import BadFields, selected, selector

BASE = f"/compute/v1/projects/{PROJECT}"
INSERT = f"{BASE}/zones/us-central1-a/instances"
BODY: dict[str, Any] = {
    "name": "a",
    "machineType": "zones/us-central1-a/machineTypes/e2-standard-2",
    "disks": [
        {"boot": True, "initializeParams": {"sourceImage": "projects/ml-images/global/images/cuda"}}
    ],
    "networkInterfaces": [{"network": "global/networks/default"}],
    "scheduling": {"provisioningModel": "STANDARD"},
}  # fmt: skip
UUID = "11111111-1111-4111-8111-111111111111"


class Asker:
    """Plain HTTP, with nothing of the adapter's."""

    def __init__(self, fake: FakeGcp, url: str) -> None:
        self.fake, self._url = fake, url

    def __call__(
        self, path: str, body: Any = None, *, method: str = "", **headers: str | None
    ) -> tuple[int, Any]:
        given = {
            "Authorization": f"Bearer {self.fake.token()}",
            "X-Goog-Api-Version": API_VERSION,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._url + path,
            data,
            {name: value for name, value in given.items() if value is not None},
            method=method or ("GET" if body is None else "POST"),
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


@pytest.fixture
def ask() -> Iterator[Asker]:
    fake = FakeGcp()
    with fake.serving() as url:
        yield Asker(fake, url)


def test_what_is_right_is_done(ask: Asker) -> None:
    assert ask(BASE)[0] == 200
    status, operation = ask(f"{INSERT}?requestId={UUID}", BODY)
    assert (status, operation["operationType"]) == (200, "insert")
    assert (
        ask(f"{BASE}/zones/us-central1-a/operations/{operation['name']}/wait", method="POST")[1]["status"]
        == "DONE"
    )
    assert ask.fake.controls.violations == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (BODY | {"machine_type": "x"}, "machine_type"),
        (BODY | {"status": "RUNNING"}, "status"),
        (BODY | {"name": "A"}, "name"),
        (BODY | {"scheduling": {"provisioningModel": "CHEAP"}}, "CHEAP"),
        (BODY | {"disks": [{"initializeParams": {"diskSizeGb": 20}}]}, "diskSizeGb"),
        (BODY | {"labels": {"a": 1}}, "labels"),
        (None, "None"),
    ],
)
def test_a_wrong_body_is_a_violation(ask: Asker, body: Any, said: str) -> None:
    assert ask(INSERT, body, method="POST")[0] == 400
    assert said in ask.fake.controls.violations[0]
    assert ask.fake.alive() == []


@pytest.mark.parametrize(
    "query",
    [
        "request_id=1",
        "requestId=7",
        "requestId=00000000-0000-0000-0000-000000000000",
        "alt=xml",
        "maxResults=2",
    ],
)
def test_a_wrong_query_is_a_violation(ask: Asker, query: str) -> None:
    assert ask(f"{INSERT}?{query}", BODY)[0] == 400
    assert ask.fake.controls.violations
    assert ask.fake.alive() == []


def test_a_request_without_version_or_token_is_refused(ask: Asker) -> None:
    assert ask(BASE, X_Goog_Api_Version=None)[0] == 400
    assert ask(BASE, X_Goog_Api_Version="2099-01-01")[0] == 400
    assert len(ask.fake.controls.violations) == 2
    assert ask(BASE, Authorization=None)[0] == 401
    assert ask(BASE, Authorization="Bearer nonsense")[0] == 401


def test_a_path_that_is_no_method_s_is_a_violation(ask: Asker) -> None:
    assert ask(f"{BASE}/zones/us-central1-a/machines")[0] == 404
    assert ask.fake.controls.violations


def test_a_request_id_is_one_request(ask: Asker) -> None:
    first = ask(f"{INSERT}?requestId={UUID}", BODY)[1]
    assert ask(f"{INSERT}?requestId={UUID}", BODY)[1]["name"] == first["name"]
    assert ask(f"{INSERT}?requestId={UUID}", BODY | {"name": "b"})[0] == 400
    assert ask(INSERT, BODY)[0] == 409
    assert ask.fake.alive() == ["a"]


def test_an_answer_of_its_own_that_is_wrong_is_a_violation(ask: Asker) -> None:
    ask(INSERT, BODY)
    with ask.fake.world.lock:
        next(iter(ask.fake.world.machines.values())).body["colour"] = "red"
    ask(f"{INSERT}/a")
    assert "colour" in ask.fake.controls.violations[0]


def test_a_token_needs_the_key_s_signature(ask: Asker) -> None:
    grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=a.b.c"
    request = urllib.request.Request(ask._url + "/token", grant.encode())
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    with caught.value:
        assert caught.value.code == 400
    assert ask.fake.controls.violations


THINGS: list[dict[str, Any]] = [
    {"name": "a", "labels": {"everpool-owner": "x"}, "on": True, "madeTime": "2026-11-22T02:00:00-08:00"},
    {"name": "b", "labels": {"everpool-owner": "y"}, "on": False, "madeTime": "2026-11-22T02:00:01-08:00"},
    {"name": "c", "on": True, "madeTime": "2026-11-21T02:00:00-08:00"},
]


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('name = "a"', "a"),
        ("name=a", "a"),
        ("name != a", "bc"),
        ('labels.everpool-owner = "x"', "a"),
        ("labels.everpool-owner:*", "ab"),
        ("on = true", "ac"),
        ('(on = true) (name = "c")', "c"),
        ("(on = true) AND (name = c)", "c"),
        ("(name = a) OR (name = b)", "ab"),
        ("name eq a|c", "ac"),
        ('name eq ".*"', "abc"),
        ("name ne b", "ac"),
        ('(name = "a") (madeTime > "2026-11-22T09:59:00Z")', "a"),
        ('madeTime > "2026-11-22T10:00:00Z"', "b"),
    ],
)
def test_a_filter_selects(expression: str, names: str) -> None:
    selects = parsed(expression)
    assert "".join(str(one["name"]) for one in THINGS if selects(one)) == names


@pytest.mark.parametrize(
    "expression", ["name", "name =", "(name = a", "name > a", "name = a)", '"', "name eq a["]
)
def test_what_is_no_filter_is_refused(expression: str, ask: Asker) -> None:
    with pytest.raises(BadFilter):
        parsed(expression)


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ("a", {"a": 1}),
        ("items/*/things(name)", {"items": {"x": {"things": [{"name": "n"}]}}}),
        ("items/*/things/name,items/*/warning/code", {
            "items": {"x": {"things": [{"name": "n"}]}, "y": {"warning": {"code": "NONE"}}},
        }),
        ("none", {}),
    ],
)  # fmt: skip
def test_a_part_of_an_answer_is_what_is_asked_for(fields: str, shown: Any) -> None:
    things = [{"name": "n", "metadata": "m"}]
    whole = {"a": 1, "items": {"x": {"things": things}, "y": {"warning": {"code": "NONE", "message": "-"}}}}
    assert selected(whole, selector(fields)) == shown


@pytest.mark.parametrize("fields", ["", "a(", "a(b", "a)", "a,,b", "a/", "(a)", "a b"])
def test_fields_that_are_none_are_a_violation(fields: str, ask: Asker) -> None:
    with pytest.raises(BadFields):
        selector(fields)
    assert ask(f"{BASE}?fields={quote(fields)}")[0] == 400
    assert ask.fake.controls.violations
