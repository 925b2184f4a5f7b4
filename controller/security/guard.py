"""All about who may come in, in one place: the desk has one of these."""

import time
from collections.abc import Callable

import anyio
import structlog

from controller.config import DaemonConfig
from controller.config_sections import LimitsConfig
from controller.records import Records
from controller.security.certificate import LOOK_EVERY_S, Certificate, CertificateProblem
from controller.security.rates import Rates, neighbourhood
from controller.security.tokens import TokenStore

log = structlog.get_logger()


class Bodies:
    """Bytes of bodies that are not here as a whole yet: of all, and of each who sends them.

    Attributes:
        held: of all.
    """

    def __init__(self) -> None:
        self.held = 0
        self._of: dict[str, int] = {}

    def take(self, who: str, size: int, most: int) -> bool:
        """Hold so many more, when all would then hold `most` at most, and one of them half of it."""
        own = self._of.get(who, 0) + size
        if self.held + size > most or own > most // 2:
            return False
        self.held += size
        self._of[who] = own
        return True

    def give(self, who: str, size: int) -> None:
        """Hold so many less."""
        left = self._of.get(who, 0) - size
        self.held -= size
        if left > 0:
            self._of[who] = left
        else:
            self._of.pop(who, None)


class Guard:
    """Tokens, limits, and what was turned away.

    Attributes:
        tokens: who may come in by TCP.
        limits: as configured; changed by `limit`.
        bodies: that come in just now.
        certificate: that of TCP; None: TCP is plain, or not listened on.
        connections: that are open now, of TCP and of the unix socket.
        connections_refused: since the start, because there were too many.
        connections_cut: since the start, because they were too slow.
        requests_limited: answered 429 since the start, for their rate.
        tokens_refused: wrong ones since the start.
    """

    def __init__(
        self,
        records: Records,
        now: Callable[[], float],
        limits: LimitsConfig | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        self._now = now
        self.tokens = TokenStore(records, now)
        self.bodies = Bodies()
        self.certificate = certificate
        self.connections = 0
        self.connections_refused = 0
        self.connections_cut = 0
        self.requests_limited = 0
        self.tokens_refused = 0
        self.limit(limits or LimitsConfig())

    def limit(self, limits: LimitsConfig) -> None:
        """Hold to other limits from now on."""
        self.limits = limits
        self._requests = Rates(limits.requests_per_s, limits.burst)
        self._refused = Rates(limits.refused_per_minute / 60, limits.refused_per_minute)

    def request_waits_s(self, who: str) -> float:
        """0 when this principal, or address, may ask now; else for how long it may not."""
        wait = self._requests.wait_s(who, time.monotonic())
        if wait:
            self.requests_limited += 1
        return wait

    def refused_waits_s(self, host: str) -> float:
        """Count a wrong token. 0 when its address may try again at once, else for how long not."""
        self.tokens_refused += 1
        return self._refused.wait_s(neighbourhood(host), time.monotonic())

    @property
    def certificate_expires_at(self) -> float | None:
        """UTC seconds; None: TCP is plain, or not listened on."""
        return self.certificate.expires_at if self.certificate is not None else None

    def reload(self, daemon: DaemonConfig) -> list[str]:
        """Hold to what the config says now; what can't be used is refused, a line each: the old goes on."""
        problems: list[str] = []
        self.limit(daemon.limits)
        try:
            self.tokens.own(daemon.token() if daemon.token_file is not None else None)
        except ValueError as error:
            problems.append(f"daemon.token_file: {error}: the old one goes on")
        if daemon.tls is None:
            self.certificate = None
        elif self.certificate is not None:
            self.certificate.look(daemon.tls)
            if self.certificate.problem is not None:
                problems.append(f"{self.certificate.problem}: the old one goes on")
        else:
            try:
                self.certificate = Certificate(daemon.tls, self._now)
            except CertificateProblem as problem:
                problems.append(f"{problem}: TCP stays plain")
        for text in problems:
            log.error("of the config not taken", what=text)
        return problems

    async def watch(self) -> None:
        """Look for a new certificate, and warn before the end of the one there is, for ever."""
        while True:
            await anyio.sleep(LOOK_EVERY_S)
            if self.certificate is not None:
                self.certificate.look()
                self.certificate.warn()

    def warnings(self) -> list[str]:
        """What somebody should see to, a line each."""
        warning = self.certificate.warning() if self.certificate is not None else None
        return [warning] if warning is not None else []
