"""Calls to aws: one client per service and region, each call bounded, paced and classified.

botocore's clients, over httpx so that a cancelled call really ends. What creates is sent once; what only
reads may be sent again by the library, a few times and within the same time limit.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import anyio
import anyio.lowlevel
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioAssumeRoleCredentialFetcher, AioDeferredRefreshableCredentials
from aiobotocore.httpxsession import HttpxSession
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from providers.aws.config import AwsConfig, Service
from providers.aws.faults import failed, refused
from providers.errors import Fault, ProviderError
from providers.pace import RateLimit

CONNECT_WITHIN_S = 10.0
CALL_WITHIN_S = 40.0
PAGES_MAX = 2000
CONNECTIONS_MAX = 64
# Of our own rate limit, then a call is given up unsent. Who launches a batch waits for 120 s, and what is
# given up there is unknown: a launch waits nearly so long, and has an answer before.
WAIT_FOR_TURN_S, LAUNCH_WAITS_S = 60.0, 105.0
LAUNCH_WITHIN_S = 117.0  # with the wait
READS_BURST, WRITES_BURST = 100, 50
PRICING_REGION = "us-east-1"  # https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html

_LAUNCHES = ("run_instances", "create_fleet")
_READS = ("describe_", "get_", "list_", "receive_")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its fields, and when the vendor's clock says it was made (None: it did not say)."""

    data: Mapping[str, Any]
    at: float | None


@dataclass(slots=True)
class _Limit:
    """A rate limit, and how many calls wait for their turn."""

    rate: RateLimit
    per_s: float
    waiting: int = 0


class Clients:
    """All clients of one account. Made when first used; after `aclose` they are made again when used again.

    Args:
        name: what the config calls this provider.
        config: regions, credentials, endpoints and rates.
    """

    def __init__(self, name: str, config: AwsConfig) -> None:
        self._name, self._config = name, config
        self._stack = AsyncExitStack()
        self._session: AioSession | None = None
        self._secrets: tuple[str, ...] = ()
        self._made: dict[tuple[str, str, bool], Any] = {}
        self._making: anyio.Lock | None = None
        self._limits: dict[tuple[str, str], _Limit] = {}

    async def call(
        self,
        service: Service,
        region: str,
        operation: str,
        *,
        urgent: bool = False,
        timeout_s: float = CALL_WITHIN_S,
        **parameters: Any,
    ) -> Reply:
        """Make one call. `operation` is botocore's name for it, such as run_instances.

        Raises:
            ProviderError: whatever went wrong; throttled also when our own rate limit lets nothing through.
        """
        what = f"{operation} in {region}"
        reads = operation.startswith(_READS)
        waited_s = await self._turn(region, operation, reads, urgent)
        if operation in _LAUNCHES:
            timeout_s = min(timeout_s, LAUNCH_WITHIN_S - waited_s)
        sent = False
        try:
            with anyio.fail_after(timeout_s):
                client = await self._client(service, region, reads)
                sent = True
                data = await getattr(client, operation)(**parameters)
        except TimeoutError as error:
            fault = Fault.UNKNOWN if sent else Fault.NOT_SENT
            raise ProviderError(fault, f"{what}: no answer in {timeout_s:g} s") from error
        except ClientError as error:
            problem = refused(self._name, what, error)
            if problem.fault is Fault.CREDENTIALS:
                self._look_at_secrets_again()
            raise problem from error
        except BotoCoreError as error:
            raise failed(what, error) from error
        except ResponseParserError as error:
            raise ProviderError(Fault.UNKNOWN, f"{what}: the answer can't be read") from error
        return Reply(data, _date(data))

    async def pages(
        self,
        service: Service,
        region: str,
        operation: str,
        *,
        timeout_s: float = CALL_WITHIN_S,
        **parameters: Any,
    ) -> AsyncIterator[Reply]:
        """Each page of a listing, to the end. Raises ProviderError."""
        token: str | None = None
        for _ in range(PAGES_MAX):
            more: dict[str, Any] = {} if token is None else {"NextToken": token}
            reply = await self.call(service, region, operation, timeout_s=timeout_s, **parameters, **more)
            yield reply
            token = reply.data.get("NextToken") or None
            if token is None:
                return
        raise ProviderError(Fault.UNKNOWN, f"{operation} in {region}: more than {PAGES_MAX} pages")

    async def aclose(self) -> None:
        """Close all connections."""
        stack, self._stack = self._stack, AsyncExitStack()
        self._made, self._session, self._making = {}, None, None
        self._limits = {}
        await stack.aclose()

    async def _turn(self, region: str, operation: str, reads: bool, urgent: bool) -> float:
        """Wait until our own rate limit lets a call through; for how long, in seconds.

        Raises:
            ProviderError: throttled, after how long all that wait will have been let through.
        """
        limit = self._limit(region, operation, reads)
        limit.waiting += 1
        began = anyio.current_time()
        try:
            with anyio.move_on_after(
                LAUNCH_WAITS_S if operation in _LAUNCHES else WAIT_FOR_TURN_S
            ) as waiting:
                await limit.rate.take(urgent=urgent)
            if waiting.cancelled_caught:
                text = f"{operation} in {region}: {limit.waiting} calls wait for our own rate limit"
                raise ProviderError(Fault.THROTTLED, text, limit.waiting / limit.per_s, paced=True)
        finally:
            limit.waiting -= 1
        return anyio.current_time() - began

    def _limit(self, region: str, operation: str, reads: bool) -> "_Limit":
        config = self._config
        if operation in _LAUNCHES:
            kind, per_s, burst = "launch", config.launches_per_s, config.launches_burst
        elif reads:
            kind, per_s, burst = "read", config.reads_per_s, READS_BURST
        else:
            kind, per_s, burst = "write", config.writes_per_s, WRITES_BURST
        limit = self._limits.get((region, kind))
        if limit is None:
            limit = self._limits[region, kind] = _Limit(RateLimit(per_s, burst, anyio.current_time), per_s)
        return limit

    async def _client(self, service: Service, region: str, reads: bool) -> Any:
        client = self._made.get((service, region, reads))
        if client is not None:
            return client
        self._making = self._making or anyio.Lock()
        async with self._making:
            client = self._made.get((service, region, reads))
            if client is None:
                session = await self._ready()
                client = await self._stack.enter_async_context(
                    session.create_client(
                        service,
                        region_name=region,
                        endpoint_url=self._endpoint(service),
                        config=_settings(self._config.read_attempts if reads else 1),
                    )
                )
                self._made[service, region, reads] = client
        return client

    def _endpoint(self, service: Service) -> str | None:
        return self._config.endpoints.get(service, self._config.endpoint_url)

    async def _ready(self) -> AioSession:
        if self._session is not None:
            return self._session
        config = self._config
        session = AioSession(profile=config.profile)
        session.set_default_client_config(_settings(config.read_attempts))
        if config.access_key_id is not None and config.secret_access_key is not None:
            self._secrets = self._read_secrets()
            session.set_credentials(*self._secrets)
        if config.role_arn is not None:
            await self._assume_role(session, config.role_arn)
        self._session = session
        return session

    def _read_secrets(self) -> tuple[str, ...]:
        config = self._config
        sources = (config.access_key_id, config.secret_access_key, config.session_token)
        return tuple(source.read() for source in sources if source is not None)

    def _look_at_secrets_again(self) -> None:
        """Begin anew with the secrets as they are now. Calls on their way keep the clients they have."""
        if not self._secrets:
            return
        try:
            if self._read_secrets() == self._secrets:
                return
        except ProviderError:
            return
        self._made, self._session = {}, None

    async def _assume_role(self, session: AioSession, role_arn: str) -> None:
        base = await session.get_credentials()
        if base is None:
            raise ProviderError(Fault.CREDENTIALS, f"no credentials to assume {role_arn} with")
        region, endpoint = self._config.regions[0], self._endpoint("sts")

        def sts(service: str, **keys: Any) -> Any:
            return session.create_client(service, region_name=region, endpoint_url=endpoint, **keys)

        extra = {"RoleSessionName": "everpool"}
        if self._config.role_external_id is not None:
            extra["ExternalId"] = self._config.role_external_id.read()
        fetcher = AioAssumeRoleCredentialFetcher(
            client_creator=sts, source_credentials=base, role_arn=role_arn, extra_args=extra
        )
        session._credentials = AioDeferredRefreshableCredentials(
            method="assume-role", refresh_using=fetcher.fetch_credentials
        )


def _settings(attempts: int) -> AioConfig:
    return AioConfig(
        http_session_cls=HttpxSession,
        warm_up_loader_caches=True,  # reads the service's model in a thread: it is megabytes of JSON
        connect_timeout=CONNECT_WITHIN_S,
        read_timeout=CALL_WITHIN_S,
        max_pool_connections=CONNECTIONS_MAX,
        retries={"mode": "standard", "total_max_attempts": attempts},
        connector_args={"pool_timeout": CONNECT_WITHIN_S, "write_timeout": CONNECT_WITHIN_S},
        ignore_configured_endpoint_urls=False,
    )


def _date(data: Mapping[str, Any]) -> float | None:
    try:
        return parsedate_to_datetime(data["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
    except (KeyError, ValueError):
        return None
