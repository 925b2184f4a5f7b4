"""The certificate of the TCP side: read, checked, and read again when its files change.

What is loaded is what was checked: both files are read once, and OpenSSL gets them from memory.
"""

import os
import ssl
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

import structlog
from cryptography import x509

from controller.config_sections import TlsConfig
from providers.errors import ProviderError
from providers.secret import SecretSource

LOOK_EVERY_S = 60.0
SOON_S = 14 * 86_400.0  # before its end a certificate is warned of
AGAIN_S = 86_400.0  # and so often
CHAIN_BYTES_MAX = 256 * 1024

log = structlog.get_logger()


class CertificateProblem(Exception):
    """A certificate or key that can't be used; the text says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as they are served.

    Attributes:
        context: for new connections.
        expires_at: UTC seconds; of the first in the chain that ends.
        digest: of what was read, to see changes.
    """

    context: ssl.SSLContext
    expires_at: float
    digest: str


class Certificate:
    """The pair that is served now. Built with one that can be used, it keeps the last good one.

    At the start one that has expired is served, loudly: machines and money need a daemon that runs more than
    clients by TCP need to be spared their own refusal. Later only a pair that has not replaces it.

    Attributes:
        pair: the pair.
        problem: why what lies in the files now is not served; None: it is.
    """

    def __init__(self, config: TlsConfig, now: Callable[[], float]) -> None:
        """Raises CertificateProblem."""
        self._config = config
        self._now = now
        self.pair = load(config, now(), expired=True)
        self.problem: str | None = None
        self._warned_at = 0.0

    @property
    def expires_at(self) -> float:
        """When the pair that is served expires, UTC seconds."""
        return self.pair.expires_at

    def look(self, config: TlsConfig | None = None) -> bool:
        """Read the files again; whether another pair is served now. A bad one is refused, loudly."""
        self._config = config or self._config
        try:
            found = load(self._config, self._now())
        except CertificateProblem as error:
            if str(error) != self.problem:
                self.problem = str(error)
                log.error(
                    "the certificate that is there now is not taken; the last good one goes on",
                    why=self.problem,
                )
            return False
        self.problem = None
        if found.digest == self.pair.digest:
            return False
        self.pair = found
        self._warned_at = 0.0
        log.info("a new certificate is served", days=round((found.expires_at - self._now()) / 86_400, 1))
        return True

    def warn(self) -> None:
        """Say in the log what somebody should see to, once a day."""
        warning = self.warning()
        if warning is not None and self._now() - self._warned_at >= AGAIN_S:
            self._warned_at = self._now()
            log.warning(warning)

    def warning(self) -> str | None:
        """What somebody should see to, if anything."""
        if self.problem is not None:
            return f"certificate: {self.problem}; the last good one goes on"
        left = self.pair.expires_at - self._now()
        if left > SOON_S:
            return None
        if left <= 0:
            return "certificate: it has expired: put a new pair into its files"
        return f"certificate: it expires in {left / 86_400:.1f} days: put a new pair into its files"


def load(config: TlsConfig, now: float, *, expired: bool = False) -> Pair:
    """Read and check a pair; with `expired` one that has expired is taken as well.

    Raises:
        CertificateProblem: missing, unreadable, no PEM, not of each other, or not valid now.
    """
    chain, key = _read_chain(config.certificate), _read_key(config.key)
    where = named(config.certificate)
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise CertificateProblem(f"daemon.tls.certificate: {where} is no certificate in PEM") from error
    for one in certificates:
        if one.not_valid_before_utc.timestamp() > now:
            text = f"is valid only from {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on: look at the clock"
            raise CertificateProblem(f"daemon.tls.certificate: {where} {text}")
    expires_at = min(one.not_valid_after_utc.timestamp() for one in certificates)
    if expires_at <= now and not expired:
        ended = min(one.not_valid_after_utc for one in certificates)
        raise CertificateProblem(
            f"daemon.tls.certificate: {where} expired at {ended:%Y-%m-%d %H:%M} UTC: put a new one there"
        )
    if b"ENCRYPTED" in key:
        raise CertificateProblem(f"daemon.tls.key: {named(config.key)} has a passphrase: give one without")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        with _in_memory(chain) as chain_path, _in_memory(key) as key_path:
            context.load_cert_chain(chain_path, key_path, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = (
                f"{named(config.key)} is not the key of {where}: give both of one pair, its certificate first"
            )
        else:
            text = f"{named(config.key)} is no key in PEM, or none that OpenSSL takes ({error.reason})"
        raise CertificateProblem(f"daemon.tls.key: {text}") from error
    return Pair(context, expires_at, sha256(chain + b"\0" + key).hexdigest())


def named(source: SecretSource) -> str:
    """How a user knows it."""
    if source.file is not None:
        return str(source.file)
    return f"credential {source.credential!r}" if source.credential is not None else f"${source.env}"


def _read_key(source: SecretSource) -> bytes:
    try:
        return source.read().encode()
    except ProviderError as error:
        raise CertificateProblem(f"daemon.tls.key: {error}") from error


def _read_chain(source: SecretSource) -> bytes:
    """A certificate is no secret: everybody may read it."""
    where = "daemon.tls.certificate"
    try:
        path = source.path()
        if path is None:
            return source.read().encode()
        if not stat.S_ISREG(path.stat().st_mode):
            raise CertificateProblem(f"{where}: {path} is not a file")
        with path.open("rb") as file:
            body = file.read(CHAIN_BYTES_MAX + 1)
    except ProviderError as error:
        raise CertificateProblem(f"{where}: {error}") from error
    except OSError as error:
        raise CertificateProblem(f"{where}: {named(source)} can't be read: {error.strerror}") from error
    if len(body) > CHAIN_BYTES_MAX:
        raise CertificateProblem(f"{where}: {path} has more than {CHAIN_BYTES_MAX} bytes")
    return body


@contextmanager
def _in_memory(body: bytes) -> Iterator[str]:
    """A path to a file that is on no disk."""
    descriptor = os.memfd_create("everpool")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(body)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _no_password() -> bytes:
    return b"-"  # else OpenSSL would ask at the terminal
