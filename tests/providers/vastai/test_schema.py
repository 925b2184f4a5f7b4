"""The fake holds requests, and itself, to the vendor's OpenAPI document."""

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.fakes.serving import served
from tests.fakes.vastai.fake import API_KEY, FakeVastai


def ask(url: str, method: str, path: str, body: object = None) -> dict[str, Any]:
    request = urllib.request.Request(url + path, method=method)
    request.add_header("Authorization", f"Bearer {API_KEY}")
    request.add_header("Content-Type", "application/json")
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(request, data, timeout=10) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found


@pytest.mark.parametrize(
    ("method", "path", "body", "word"),
    [
        ("POST", "/api/v0/bundles/", {"gpu_nam": {"eq": "RTX 4090"}}, "gpu_nam"),
        ("POST", "/api/v0/bundles/", {"num_gpus": 2}, "2 is not of type"),
        ("POST", "/api/v0/bundles/", {"num_gpus": {"ge": 2}}, "ge"),
        ("POST", "/api/v0/bundles/", {"type": "spot"}, "spot"),
        ("POST", "/api/v0/bundles/", {"order": [["dph_total"]]}, "too short"),
        ("POST", "/api/v0/bundles/", {"limit": "9"}, "'9' is not of type"),
        ("PUT", "/api/v0/asks/{ask}/", {"image": "a", "runtype": "ssh_directly"}, "ssh_directly"),
        ("PUT", "/api/v0/asks/{ask}/", {"image": "a", "price": 0.0001}, "0.0001"),
        ("PUT", "/api/v0/asks/{ask}/", {"disk": 10}, "image"),
        ("PUT", "/api/v0/asks/{ask}/", {"image": "a", "lable": "x"}, "lable"),
        ("GET", "/api/v1/instances/?limit=26", None, "26"),
    ],
)
def test_what_breaks_the_document_is_noted(method: str, path: str, body: object, word: str) -> None:
    fake = FakeVastai()
    assert fake.checks
    with served(fake) as url:
        offers = ask(url, "POST", "/api/v0/bundles/", {})["offers"]
        assert fake.controls.violations == []
        try:
            ask(url, method, path.replace("{ask}", str(offers[0]["id"])), body)
        except urllib.error.HTTPError as error:
            error.close()
    assert word in " ".join(fake.controls.violations)


def test_an_answer_that_breaks_the_document_is_noted() -> None:
    fake = FakeVastai()
    with served(fake) as url:
        ref = fake.orphan("o/p/0/1/1")
        fake.contract(ref).body["image"] = "a"
        fake.contract(ref).label = 7  # type: ignore[assignment]
        ask(url, "GET", "/api/v1/instances/")
    assert "7 is not of type" in " ".join(fake.controls.violations)
