"""What each error means."""

import json

import pytest
from structlog.testing import capture_logs

from providers.errors import Fault
from providers.gcp.faults import CODES, REASONS, failure, operation_failure, until_next_minute_s
from providers.http import Answer

MINUTE = "Sun, 22 Nov 2026 10:00:40 GMT"


def answer(status: int, reason: str = "", message: str = "", **headers: str) -> Answer:
    error: dict[str, object] = {"code": status, "message": message}
    if reason:
        error["errors"] = [{"domain": "global", "reason": reason, "message": message}]
    return Answer(status, headers, json.dumps({"error": error}).encode())


EXPECTED = {
    (400, "invalid"): Fault.REJECTED,
    (400, "badRequest"): Fault.REJECTED,
    (400, "resourceNotReady"): Fault.NOT_SENT,
    (400, "resourceInUseByAnotherResource"): Fault.CONFLICT,
    (401, "authError"): Fault.CREDENTIALS,
    (403, "forbidden"): Fault.CREDENTIALS,
    (403, "accessNotConfigured"): Fault.CREDENTIALS,
    (403, "rateLimitExceeded"): Fault.THROTTLED,
    (403, "RATE_LIMIT_EXCEEDED"): Fault.THROTTLED,
    (403, "quotaExceeded"): Fault.QUOTA,
    (403, "BILLING_DISABLED"): Fault.FUNDS,
    (404, "notFound"): Fault.GONE,
    (409, "alreadyExists"): Fault.CONFLICT,
    (412, "conditionNotMet"): Fault.CONFLICT,
    (429, "rateLimitExceeded"): Fault.THROTTLED,
    (429, ""): Fault.THROTTLED,
    (500, "internalError"): Fault.UNKNOWN,
    (502, ""): Fault.UNKNOWN,
    (503, "backendError"): Fault.UNKNOWN,
    (503, "resourcePoolExhausted"): Fault.CAPACITY,
    (400, ""): Fault.REJECTED,
    (403, ""): Fault.CREDENTIALS,
    (404, ""): Fault.GONE,
    (409, ""): Fault.CONFLICT,
    (418, ""): Fault.UNKNOWN,
    (403, "neverHeardOf"): Fault.UNKNOWN,
}


@pytest.mark.parametrize(("status", "reason"), EXPECTED)
def test_an_http_error_has_its_fault(status: int, reason: str) -> None:
    with capture_logs() as logs:
        error = failure("gcp", "instances.insert", answer(status, reason, "because"))
    assert error.fault is EXPECTED[status, reason]
    assert "instances.insert" in error.detail and "because" in error.detail
    assert bool(logs) == (reason == "neverHeardOf" or status == 418)


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_known_in_the_new_form_too(reason: str) -> None:
    body = {"error": {"code": 403, "message": "m", "details": [{"@type": "ErrorInfo", "reason": reason}]}}
    error = failure("gcp", "x", Answer(403, {}, json.dumps(body).encode()))
    assert error.fault is REASONS[reason]


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'{"error": "x"}', b'{"error": {"errors": 1}}']
)
def test_an_answer_that_is_no_error_of_theirs_is_judged_by_its_status(body: bytes) -> None:
    assert failure("gcp", "x", Answer(404, {}, body)).fault is Fault.GONE
    assert failure("gcp", "x", Answer(500, {}, body)).fault is Fault.UNKNOWN


def test_what_a_launch_names_and_is_not_there_is_the_launch_s_fault() -> None:
    missing = answer(404, "notFound", "machine type")
    assert failure("gcp", "instances.insert", missing, making=True).fault is Fault.REJECTED


@pytest.mark.parametrize(
    ("permission", "fault"),
    [
        ("compute.images.useReadOnly", Fault.REJECTED),
        ("compute.snapshots.useReadOnly", Fault.REJECTED),
        ("compute.disks.use", Fault.REJECTED),
        ("compute.disks.create", Fault.CREDENTIALS),
        ("compute.instances.create", Fault.CREDENTIALS),
        ("compute.subnetworks.use", Fault.CREDENTIALS),
    ],
)
def test_what_a_launch_starts_from_and_may_not_use_is_the_launch_s_fault(
    permission: str, fault: Fault
) -> None:
    said = f"Required '{permission}' permission for 'projects/x/global/images/y'"
    refused = answer(403, "forbidden", said)
    assert failure("gcp", "instances.insert", refused, making=True).fault is fault
    assert failure("gcp", "instances.get", refused).fault is Fault.CREDENTIALS
    operation = {"status": "DONE", "error": {"errors": [{"code": "PERMISSIONS_ERROR", "message": said}]}}
    error = operation_failure("gcp", "instances.insert", operation)
    assert error is not None
    assert error.fault is fault


def test_billing_that_is_off_is_told_apart_from_permissions() -> None:
    said = "This API method requires billing to be enabled. Please enable billing on project #1"
    assert failure("gcp", "x", answer(403, "forbidden", said)).fault is Fault.FUNDS


def test_the_quota_of_a_minute_is_full_again_at_the_next_whole_minute() -> None:
    error = failure("gcp", "x", answer(403, "rateLimitExceeded", date=MINUTE))
    assert error.retry_after_s == 21
    told = answer(429, "rateLimitExceeded", date=MINUTE, **{"retry-after": "7"})
    assert failure("gcp", "x", told).retry_after_s == 7
    assert until_next_minute_s(None) == 60


@pytest.mark.parametrize("code", CODES)
def test_an_operation_s_error_has_its_fault(code: str) -> None:
    operation = {"status": "DONE", "error": {"errors": [{"code": code, "message": "m"}]}}
    error = operation_failure("gcp", "instances.insert", operation)
    assert error is not None
    assert error.fault is CODES[code]
    assert code in error.detail


def test_an_operation_without_errors_went_well() -> None:
    assert operation_failure("gcp", "x", {"status": "DONE", "httpErrorStatusCode": 200}) is None
    assert operation_failure("gcp", "x", {}) is None


def test_a_code_that_nobody_knows_is_an_unknown_outcome_and_is_logged() -> None:
    errors = [{"code": "STOCKOUT", "message": "m"}, {"code": "NEVER_HEARD_OF", "message": "token=abcdef123"}]
    with capture_logs() as logs:
        error = operation_failure("gcp", "x", {"error": {"errors": errors}, "httpErrorStatusCode": 503})
    assert error is not None
    assert error.fault is Fault.UNKNOWN
    assert logs[0]["code"] == "NEVER_HEARD_OF"
    assert "abcdef123" not in str(logs) + error.detail


def test_an_operation_that_only_has_a_status_failed_too() -> None:
    operation = {"status": "DONE", "httpErrorStatusCode": 503, "httpErrorMessage": "SERVICE UNAVAILABLE"}
    with capture_logs():
        error = operation_failure("gcp", "x", operation)
    assert error is not None
    assert error.fault is Fault.UNKNOWN


def test_no_secret_of_a_body_that_is_sent_back_is_told() -> None:
    said = (
        "bad metadata -----BEGIN OPENSSH PRIVATE KEY-----\nabcdefgh\n-----END OPENSSH PRIVATE KEY----- ya29"
    )
    for status in (400, 403, 418):
        with capture_logs() as logs:
            error = failure("gcp", "x", answer(status, "neverHeardOf", said))
        assert "abcdefgh" not in error.detail + str(logs)
