"""What each refusal of the vendor's means."""

import json

import pytest

from providers.errors import Fault
from providers.http import Answer
from providers.vastai.faults import refusal

NO_ASK = "error 404/3603: no_such_ask Instance type by id 1 is not available."


def answer(status: int, body: object, **headers: str) -> Answer:
    raw = body if isinstance(body, str) else json.dumps(body)
    return Answer(status, headers, raw.encode())


def said(error: str, msg: str = "") -> dict[str, object]:
    return {"success": False, "error": error, "msg": msg}


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (404, said("invalid_args", NO_ASK), Fault.CAPACITY),
        (410, said("no_such_ask", "error 410/3907: no_such_ask"), Fault.CAPACITY),
        (410, said("", "gone"), Fault.CAPACITY),
        (400, said("invalid_price", "bid too low"), Fault.CAPACITY),
        (200, said("no_such_ask"), Fault.CAPACITY),
        (400, said("invalid_args", "error 400/3467: 'id' is required"), Fault.REJECTED),
        (400, said("invalid_request", "Invalid json body"), Fault.REJECTED),
        (400, said("invalid_token", "after_token"), Fault.REJECTED),
        (400, said("no_ssh_key_for_vm"), Fault.REJECTED),
        (422, said("", "no"), Fault.REJECTED),
        (413, "too large", Fault.REJECTED),
        (
            403,
            said("invalid_args", "error 403/3586: Offer 1 is not your own."),
            Fault.REJECTED,
        ),
        (403, said("forbidden", "permission"), Fault.CREDENTIALS),
        (401, said("auth_error", "Invalid user key"), Fault.CREDENTIALS),
        (401, "", Fault.CREDENTIALS),
        (404, said("", "Invalid user key"), Fault.CREDENTIALS),
        (404, {"msg": "Session expired. Please log in again."}, Fault.CREDENTIALS),
        (400, said("insufficient_credit", "Your account lacks credit"), Fault.FUNDS),
        (402, "pay", Fault.FUNDS),
        (404, said("no_such_instance", "Instance 1 not found."), Fault.GONE),
        (404, said("not_found", "Instance not found"), Fault.GONE),
        (429, "API requests too frequent", Fault.THROTTLED),
        (429, {"detail": "API requests too frequent endpoint threshold=4.5"}, Fault.THROTTLED),
        (429, said("rate_limit_exceeded"), Fault.THROTTLED),
        (429, said("search_quota_exceeded", "Daily search quota exceeded"), Fault.QUOTA),
        (500, said("no_such_ask"), Fault.UNKNOWN),
        (503, "upstream connect error", Fault.UNKNOWN),
    ],
)
def test_each_refusal_has_its_fault(status: int, body: object, fault: Fault) -> None:
    refused = refusal(answer(status, body))
    assert refused is not None
    assert refused.known
    assert refused.fault is fault


@pytest.mark.parametrize(
    ("status", "body"),
    [(400, said("brand_new_word")), (404, "nothing here"), (200, "<html>"), (302, ""), (409, said("busy"))],
)
def test_what_nobody_wrote_down_is_unknown_and_says_so(status: int, body: object) -> None:
    refused = refusal(answer(status, body))
    assert refused is not None
    assert not refused.known
    assert refused.fault is Fault.UNKNOWN


@pytest.mark.parametrize("body", [{"success": True}, {"offers": []}, [], {"instances": None}])
def test_a_success_is_none(body: object) -> None:
    assert refusal(answer(200, body)) is None


@pytest.mark.parametrize(
    ("body", "headers", "wait"),
    [
        ("API requests too frequent: endpoint threshold=4.5", {}, 4.5),
        ("API requests too frequent: endpoint threshold=4.5", {"retry-after": "7"}, 7.0),
        ("API requests too frequent", {}, None),
        ({"msg": "too frequent endpoint threshold=3.0"}, {}, 3.0),
    ],
)
def test_how_long_to_wait_is_taken_from_the_header_else_from_the_text(
    body: object, headers: dict[str, str], wait: float | None
) -> None:
    refused = refusal(answer(429, body, **headers))
    assert refused is not None
    assert refused.retry_after_s == wait


@pytest.mark.parametrize("status", [200, 400, 410, 500])
def test_a_refusal_tells_of_the_contract_it_left(status: int) -> None:
    refused = refusal(answer(status, said("invalid_price") | {"new_contract": 41}))
    assert refused is not None
    assert refused.new_contract == 41
