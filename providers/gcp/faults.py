"""What an error of Compute Engine means: codes and reasons -> `Fault`. Pure.

Reasons of HTTP errors are in Google's "Troubleshooting API errors" and the client libraries; the codes inside
operations are free strings in the discovery document, these are the ones known from Google's troubleshooting
pages. A code that is not here is `unknown`, and its raw answer is logged.
"""

import re
from collections.abc import Mapping
from typing import Any

from providers.errors import Fault, ProviderError
from providers.http import Answer
from providers.redaction import log_unknown_answer, redacted

DETAIL_CHARS_MAX = 300

# `reason` of HTTP errors, old form (error.errors[].reason) and new (error.details[].reason).
REASONS = {
    "alreadyExists": Fault.CONFLICT,
    "resourceInUseByAnotherResource": Fault.CONFLICT,
    "resourceInUse": Fault.CONFLICT,
    "conditionNotMet": Fault.CONFLICT,
    "conflict": Fault.CONFLICT,
    "resourceNotReady": Fault.NOT_SENT,  # it is being changed just now: nothing was done
    "rateLimitExceeded": Fault.THROTTLED,
    "userRateLimitExceeded": Fault.THROTTLED,
    "RATE_LIMIT_EXCEEDED": Fault.THROTTLED,
    "concurrentLimitExceeded": Fault.THROTTLED,
    "operationRateExceeded": Fault.THROTTLED,
    "quotaExceeded": Fault.QUOTA,
    "QUOTA_EXCEEDED": Fault.QUOTA,
    "dailyLimitExceeded": Fault.QUOTA,
    "limitExceeded": Fault.QUOTA,
    "stockout": Fault.CAPACITY,
    "resourcePoolExhausted": Fault.CAPACITY,
    "authError": Fault.CREDENTIALS,
    "required": Fault.REJECTED,
    "forbidden": Fault.CREDENTIALS,
    "insufficientPermissions": Fault.CREDENTIALS,
    "IAM_PERMISSION_DENIED": Fault.CREDENTIALS,
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": Fault.CREDENTIALS,
    "ACCESS_TOKEN_EXPIRED": Fault.CREDENTIALS,
    "CREDENTIALS_MISSING": Fault.CREDENTIALS,
    "accessNotConfigured": Fault.CREDENTIALS,
    "SERVICE_DISABLED": Fault.CREDENTIALS,
    "accountDisabled": Fault.FUNDS,
    "billingNotEnabled": Fault.FUNDS,
    "BILLING_DISABLED": Fault.FUNDS,
    "notFound": Fault.GONE,
    "invalid": Fault.REJECTED,
    "invalidParameter": Fault.REJECTED,
    "badRequest": Fault.REJECTED,
    "parseError": Fault.REJECTED,
    "unsupportedOperation": Fault.REJECTED,
    "backendError": Fault.UNKNOWN,
    "internalError": Fault.UNKNOWN,
}

# `code` of an operation's errors.
CODES = {
    "ZONE_RESOURCE_POOL_EXHAUSTED": Fault.CAPACITY,
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": Fault.CAPACITY,
    "RESOURCE_POOL_EXHAUSTED": Fault.CAPACITY,
    "STOCKOUT": Fault.CAPACITY,
    "VM_MIN_COUNT_NOT_REACHED": Fault.CAPACITY,
    "QUOTA_EXCEEDED": Fault.QUOTA,
    "QUOTA_LIMIT_EXCEEDED": Fault.QUOTA,
    "IP_SPACE_EXHAUSTED": Fault.QUOTA,
    "IP_SPACE_EXHAUSTED_WITH_DETAILS": Fault.QUOTA,
    "RATE_LIMIT_EXCEEDED": Fault.THROTTLED,
    "RESOURCE_OPERATION_RATE_EXCEEDED": Fault.THROTTLED,
    "RESOURCE_ALREADY_EXISTS": Fault.CONFLICT,
    "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE": Fault.CONFLICT,
    "RESOURCE_NOT_FOUND": Fault.REJECTED,  # an image, a network or a type that the launch names
    "INVALID_FIELD_VALUE": Fault.REJECTED,
    "INVALID_USAGE": Fault.REJECTED,
    "INVALID_ARGUMENT": Fault.REJECTED,
    "UNSUPPORTED_OPERATION": Fault.REJECTED,
    "CONDITION_NOT_MET": Fault.REJECTED,  # an organisation's policy
    "PERMISSIONS_ERROR": Fault.CREDENTIALS,
    "FORBIDDEN": Fault.CREDENTIALS,
    "BILLING_DISABLED": Fault.FUNDS,
    "INTERNAL_ERROR": Fault.UNKNOWN,
}

# A permission on what one launch starts from, not on the account's project.
_ON_A_SOURCE = re.compile(
    r"compute\.(?:images|snapshots|instantSnapshots|machineImages|disks)\.(?:use|useReadOnly|get)\b"
)
_DISABLED_BILLING = re.compile(r"(?i)billing .{0,40}(disabled|not enabled|to be enabled)")


def failure(name: str, call: str, answer: Answer, *, making: bool = False) -> ProviderError:
    """What an answer that is not 2xx means.

    Args:
        name: of the provider, for the log.
        call: for humans and the log, such as "instances.insert".
        answer: the whole of it.
        making: the call makes something, so that what is not found, or an image or disk that it may not use,
            is something that it names.
    """
    reason, said = _told(answer.body)
    fault = REASONS.get(reason)
    status = answer.status
    if status == 401:
        fault = Fault.CREDENTIALS
    elif status == 429:
        fault = Fault.THROTTLED if fault is not Fault.QUOTA else fault
    elif status >= 500 and fault not in (Fault.CAPACITY, Fault.QUOTA, Fault.THROTTLED):
        fault = Fault.UNKNOWN
    elif fault is None and status in _BY_STATUS and not reason:
        fault = _BY_STATUS[status]
    if fault is Fault.CREDENTIALS and _DISABLED_BILLING.search(said):
        fault = Fault.FUNDS
    if making and (fault is Fault.GONE or (fault is Fault.CREDENTIALS and _ON_A_SOURCE.search(said))):
        fault = Fault.REJECTED
    if fault is None:
        log_unknown_answer(name, call, status=status, code=reason, raw=answer.body)
        fault = Fault.UNKNOWN
    after_s = None
    if fault is Fault.THROTTLED:
        after_s = answer.retry_after_s()
        if after_s is None:
            after_s = until_next_minute_s(answer.date())
    text = f"{call}: {status} {reason}".rstrip()
    return ProviderError(fault, f"{text}: {_short(said)}" if said else text, after_s)


_BY_STATUS = {
    400: Fault.REJECTED,
    403: Fault.CREDENTIALS,
    404: Fault.GONE,
    409: Fault.CONFLICT,
    412: Fault.CONFLICT,
}


def operation_failure(name: str, call: str, operation: Mapping[str, Any]) -> ProviderError | None:
    """What the errors of an operation that is over mean; None when it has none."""
    errors = (operation.get("error") or {}).get("errors") or []
    status = operation.get("httpErrorStatusCode")
    if not errors and not (isinstance(status, int) and status >= 400):
        return None
    faults, said = list[Fault](), list[str]()
    for error in errors or [{"code": "", "message": operation.get("httpErrorMessage")}]:
        code = str(error.get("code", ""))
        fault = CODES.get(code)
        if fault is None:
            raw = repr(operation.get("error") or operation.get("httpErrorMessage"))
            log_unknown_answer(name, call, status=status or "operation", code=code, raw=raw)
            fault = Fault.UNKNOWN
        if fault is Fault.CREDENTIALS and _ON_A_SOURCE.search(str(error.get("message"))):
            fault = Fault.REJECTED
        faults.append(fault)
        said.append(_short(f"{code}: {error.get('message') or ''}"))
    # Several: nothing is known as soon as one of them is not.
    fault = Fault.UNKNOWN if Fault.UNKNOWN in faults else faults[0]
    return ProviderError(fault, f"{call}: {'; '.join(said)}")


def until_next_minute_s(vendor_time: float | None) -> float:
    """How long until a quota per minute is full again: at the next whole minute of the vendor's clock."""
    return 60.0 if vendor_time is None else 60.0 - vendor_time % 60.0 + 1.0


def _told(body: bytes) -> tuple[str, str]:
    """(reason, message) of an error's body; either may be empty."""
    try:
        error = Answer(0, {}, body).json()["error"]
        reasons = [one.get("reason") for one in (*error.get("errors", ()), *error.get("details", ()))]
        known = [one for one in reasons if one in REASONS]
        told = [one for one in reasons if isinstance(one, str)]
        return (known or told or [""])[0], str(error.get("message", ""))
    except (ProviderError, TypeError, KeyError, AttributeError):
        return "", ""


def _short(text: str) -> str:
    return " ".join(redacted(text).split())[:DETAIL_CHARS_MAX]
