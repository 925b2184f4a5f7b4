"""Sections of the config about who may come in, and what is sent out. `config.py` puts them together."""

import difflib
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field, HttpUrl, field_validator

from actors.events import KINDS
from actors.spec import Seconds
from providers.model import Value
from providers.secret import SecretSource


class TlsConfig(Value):
    """[daemon.tls]: PEM, from files or systemd credentials; read again when they change, and on reload."""

    certificate: SecretSource  # the whole chain, the server's own first
    key: SecretSource


class LimitsConfig(Value):
    """[daemon.limits]: of the API. Over a rate: 429 with Retry-After; too many connections: closed."""

    body_bytes_max: Annotated[int, Field(ge=1024, le=2**30)] = 64 * 2**20
    depth_max: Annotated[int, Field(ge=8, le=1000)] = 64  # of JSON
    requests_per_s: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 5000  # of one principal
    burst: Annotated[int, Field(ge=1, le=10**6)] = 10_000
    refused_per_minute: Annotated[int, Field(ge=1, le=10**6)] = 60  # wrong tokens from one address, then 429
    connections_max: Annotated[int, Field(ge=1, le=100_000)] = 2000
    header_within_s: Seconds = 20  # until a request's head has come


class WebhookConfig(Value):
    """[webhooks.<name>]: where events are sent, each as one signed POST.

    A Request's `reply_to` names one: it is sent the Request's terminal Fact, whatever `events` says.

    Attributes:
        secret: key of the HMAC-SHA256 over time and body; 16 or more characters.
        events: kinds of events that are sent; patterns (`*`, `?`). Empty: only replies.
        pools: patterns of the pools whose events are sent; empty: all.
        timeout_s: for one try.
        retry_for_s: so long an event is tried again, then it is dropped and counted.
    """

    url: HttpUrl
    secret: SecretSource
    events: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    timeout_s: Seconds = 10
    retry_for_s: Seconds = 86_400

    @field_validator("url")
    @classmethod
    def _without_password(cls, value: HttpUrl) -> HttpUrl:
        if value.username or value.password:
            raise ValueError("no user or password in a URL: the signature says who sends")
        if value.fragment:
            raise ValueError("a URL for requests has no #fragment")
        return value

    @field_validator("events")
    @classmethod
    def _each_chooses_something(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if not any(fnmatchcase(kind, pattern) for kind in KINDS):
                near = difflib.get_close_matches(pattern, KINDS, n=1)
                hint = f"did you mean {near[0]}?" if near else "GET /openapi.json names them all"
                raise ValueError(f"no kind of event is {pattern!r}: {hint}")
        return value
