"""What went wrong with a call to aws: its error codes, and the ways that botocore says that a call failed.

Codes: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

import re
from typing import Any

import httpx2 as httpx
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    RefreshWithMFAUnsupportedError,
    SSLError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from providers.errors import Fault, ProviderError
from providers.redaction import log_unknown_answer, redacted

DRY_RUN = "DryRunOperation"
DETAIL_CHARS_MAX = 300

CODES: dict[str, Fault] = {
    DRY_RUN: Fault.REJECTED,  # as it was asked: the doctor's to understand
    # InsufficientInstanceCapacity comes with status 500 as a client library sees a "server error" in it.
    **dict.fromkeys(
        (
            "InsufficientInstanceCapacity", "UnfulfillableCapacity", "InsufficientCapacity",
            "InsufficientHostCapacity", "InsufficientReservedInstanceCapacity",
            "InsufficientVolumeCapacity", "ReservationCapacityExceeded",
            "InsufficientCapacityOnHost", "InsufficientAddressCapacity", "SpotMaxPriceTooLow",
            "Unsupported", "UnsupportedHostConfiguration", "InsufficientFreeAddressesInSubnet",
        ),
        Fault.CAPACITY,
    ),
    **dict.fromkeys(
        (
            "VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded",
            "SpotInstanceCountExceeded", "VolumeLimitExceeded", "PendingVerification",
            "AddressLimitExceeded", "SecurityGroupLimitExceeded", "KeyPairLimitExceeded",
            "NetworkInterfaceLimitExceeded", "ResourceLimitExceeded", "LaunchTemplateLimitExceeded",
            "MaxSpotFleetRequestCountExceeded", "VolumeIOPSLimit", "FleetCountLimitExceeded",
            "PrivateIpAddressLimitExceeded", "RulesPerSecurityGroupLimitExceeded",
        ),
        Fault.QUOTA,
    ),
    **dict.fromkeys(
        (
            "RequestLimitExceeded", "Throttling", "ThrottlingException", "ThrottledException",
            "RequestThrottled", "RequestThrottledException", "EC2ThrottledException", "SlowDown",
            "TooManyRequestsException", "RequestResourceCountExceeded", "BandwidthLimitExceeded",
            "PriorRequestNotComplete", "ProvisionedThroughputExceededException",
        ),
        Fault.THROTTLED,
    ),
    **dict.fromkeys(
        (
            "AuthFailure", "UnauthorizedOperation", "InvalidClientTokenId", "SignatureDoesNotMatch",
            "UnrecognizedClientException", "AccessDenied", "AccessDeniedException", "OptInRequired",
            "Blocked", "ExpiredToken", "ExpiredTokenException", "RequestExpired",
            "MissingAuthenticationToken", "IncompleteSignature",
            "InvalidSignatureException", "NotAuthorized", "InvalidSecurity",
            "AccountDisabled", "InvalidAccessKeyId", "SignatureExpired",
            "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
        ),
        Fault.CREDENTIALS,
    ),
    **dict.fromkeys(("BillingDisabled", "AccountSuspended", "PaymentRequired"), Fault.FUNDS),
    **dict.fromkeys(
        (
            "IdempotentParameterMismatch", "IdempotencyException", "DependencyViolation", "VolumeInUse",
            "InvalidGroup.InUse", "InvalidNetworkInterface.InUse", "InvalidIPAddress.InUse",
            "InvalidGroup.Duplicate", "InvalidKeyPair.Duplicate", "InvalidPermission.Duplicate",
            "InvalidLaunchTemplateName.AlreadyExistsException", "IncorrectInstanceState", "IncorrectState",
            "ResourceInUse",
        ),
        Fault.CONFLICT,
    ),
    **dict.fromkeys(
        (
            "InvalidInstanceID.NotFound", "InvalidInstanceId.NotFound", "IdempotentInstanceTerminated",
            "InvalidVolume.NotFound", "InvalidNetworkInterfaceID.NotFound", "InvalidAllocationID.NotFound",
            "InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateId.NotFoundException",
            "InvalidLaunchTemplateName.NotFoundException", "InvalidKeyPair.NotFound",
            "InvalidGroup.NotFound", "InvalidGroupId.NotFound", "InvalidSecurityGroupID.NotFound",
            "InvalidFleetId.NotFound",
        ),
        Fault.GONE,
    ),
    **dict.fromkeys(
        (
            "InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "InvalidAMIID.Unavailable",
            "OperationNotPermitted", "VolumeTypeNotAvailableInZone", "EncryptedVolumesNotSupported",
            "InvalidSubnetID.NotFound", "InvalidSubnetId.NotFound", "InvalidSubnet",
            "InvalidVpcID.NotFound", "DefaultVpcDoesNotExist",
            "VPCIdNotSpecified", "InvalidInput", "InvalidInstanceType", "InvalidParameter",
            "InvalidParameterValue", "InvalidParameterCombination", "InvalidParameterDependency",
            "MissingParameter", "UnknownParameter", "InvalidBlockDeviceMapping", "InvalidSnapshot.NotFound",
            "InvalidIamInstanceProfileArn.Malformed", "InvalidUserData.Malformed", "InvalidTagKey.Malformed",
            "InvalidTag", "TagLimitExceeded", "InvalidZone.NotFound",
            "InvalidInstanceType.NotFound", "UnsupportedOperation",
            "InvalidAction", "ValidationError", "ValidationException", "ParameterNotFound",
            "InvalidFleetConfiguration", "InvalidLaunchTemplateVersion.NotFound",
            "InvalidSpotFleetRequestConfig",
            "AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "InvalidAddress",
            "InvalidQueryParameter",
            "InvalidKey.Format", "InvalidKeyPair.Format", "InvalidGroup.Reserved", "InvalidAvailabilityZone",
            "InvalidInstanceID.Malformed", "NoSuchResourceException", "MalformedQueryString",
        ),
        Fault.REJECTED,
    ),
    **dict.fromkeys(
        ("InternalError", "InternalFailure", "InternalServiceErrorException", "InternalServerError",
         "Unavailable", "ServiceUnavailable", "ServiceUnavailableException", "RequestTimeout",
         "RequestTimeoutException"),
        Fault.UNKNOWN,
    ),
}  # fmt: skip

_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    ProfileNotFound,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
    RefreshWithMFAUnsupportedError,
)
NOT_KNOWN = ("InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed")
# Of what may not be done: what a policy may say of one machine and not of another.
_BY_POLICY = ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException")
_IMAGE = re.compile(r"\b(images?|ami)\b|\bami-[0-9a-f]", re.IGNORECASE)
_PRODUCT = re.compile(r"marketplace|\bsubscriptions?\b|\bterms\b", re.IGNORECASE)
_MALFORMED = re.compile(r"^Invalid\w+\.(Malformed|Format|Range|Reserved|Unknown)$")


def fault_of(code: str, message: str = "") -> Fault | None:
    """What a code means, with the words that came with it; None when we do not know it.

    Two codes say that an account may not do something, and also that it may not use one image or product.
    """
    of_image = code == "AuthFailure" and _IMAGE.search(message)
    if of_image or (code == "OptInRequired" and _PRODUCT.search(message)):
        return Fault.REJECTED
    return CODES.get(code) or (Fault.REJECTED if _MALFORMED.match(code) else None)


def code_of(error: ClientError) -> str:
    """The vendor's code of an error answer."""
    return str(error.response.get("Error", {}).get("Code", ""))


class AwsError(ProviderError):
    """An error that aws answered; `code` is its own word for it."""

    def __init__(self, fault: Fault, detail: str, code: str, retry_after_s: float | None = None) -> None:
        super().__init__(fault, detail, retry_after_s)
        self.code = code


def refused(provider: str, what: str, error: ClientError) -> AwsError:
    """An error answer as our error. One with a code that we do not know is logged, without secrets."""
    code, answer = code_of(error), error.response
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    message = str(answer.get("Error", {}).get("Message", ""))
    fault = fault_of(code, message)
    if fault is None:
        fault = Fault.THROTTLED if status == 429 else Fault.UNKNOWN
        log_unknown_answer(provider, what, status=status, code=code, raw=_raw(answer))
    # What follows is long, encoded, and says what the account may do.
    message = message.partition("Encoded authorization failure message")[0].strip()
    return AwsError(fault, _line(f"{what}: {code}: {message}"), code, _retry_after_s(answer))


def is_of_one(error: AwsError) -> bool:
    """Whether the refusal of a call for many things may be the fault of some of them.

    It is not when aws is overloaded or broken, or does not know who we are.
    """
    if error.fault is Fault.CREDENTIALS:
        return error.code in _BY_POLICY
    return error.fault is not Fault.THROTTLED and CODES.get(error.code) is not Fault.UNKNOWN


def failed(what: str, error: BotoCoreError) -> ProviderError:
    """A call that got no answer as our error."""
    detail = _line(f"{what}: {error}")
    if isinstance(error, _NO_CREDENTIALS):
        return ProviderError(Fault.CREDENTIALS, detail)
    if isinstance(error, ParamValidationError | NoRegionError | InvalidRegionError):
        return ProviderError(Fault.REJECTED, detail)
    if isinstance(error, EndpointConnectionError | ProxyConnectionError | SSLError):
        return ProviderError(Fault.NOT_SENT, detail)
    if isinstance(error, ConnectTimeoutError):
        # aiobotocore says so of each timeout but the one of reading, also when half of a request was written.
        cause = error.kwargs.get("error")
        sent = not isinstance(cause, httpx.ConnectTimeout | httpx.PoolTimeout)
        return ProviderError(Fault.UNKNOWN if sent else Fault.NOT_SENT, detail)
    return ProviderError(Fault.UNKNOWN, detail)


def _retry_after_s(answer: Any) -> float | None:
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _raw(answer: Any) -> str:
    return str({name: answer[name] for name in ("Error", "ResponseMetadata") if name in answer})


def _line(text: str) -> str:
    return " ".join(redacted(text).split())[:DETAIL_CHARS_MAX]
