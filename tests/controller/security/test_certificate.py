"""What may be served as a certificate, and what becomes of a new one."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.config_sections import TlsConfig
from controller.security.certificate import Certificate, CertificateProblem, load
from providers.secret import SecretSource
from tests.controller.security.pki import Authority

DAY = 86_400.0


def _expired(pki: Authority) -> None:
    pki.issue(days=-1)


def _of_another(pki: Authority) -> None:
    pki.issue()
    pki.issue(key=False)


def _no_certificate(pki: Authority) -> None:
    pki.issue()
    pki.certificate.write_text("hello")


def _no_key(pki: Authority) -> None:
    pki.issue()
    pki.key.write_text("hello there")


def _missing(pki: Authority) -> None:
    pki.issue()
    pki.certificate.unlink()


def _missing_key(pki: Authority) -> None:
    pki.issue()
    pki.key.unlink()


def _readable_by_all(pki: Authority) -> None:
    pki.issue()
    pki.key.chmod(0o644)


def _with_passphrase(pki: Authority) -> None:
    pki.issue()
    pki.key.write_text(pki.key.read_text().replace("PRIVATE", "ENCRYPTED PRIVATE"))


WRONG: dict[Callable[[Authority], None], str] = {
    _expired: r"daemon.tls.certificate: .*tls.crt expired at \d{4}-",
    _of_another: r"daemon.tls.key: .*tls.key is not the key of .*tls.crt",
    _no_certificate: r"daemon.tls.certificate: .*tls.crt is no certificate in PEM",
    _no_key: r"daemon.tls.key: .*tls.key is no key in PEM",
    _missing: r"daemon.tls.certificate: .*tls.crt can't be read: No such file",
    _missing_key: r"daemon.tls.key: .*tls.key can't be read: No such file",
    _readable_by_all: r"daemon.tls.key: .*tls.key may be read by everybody: chmod 600",
    _with_passphrase: r"daemon.tls.key: .*tls.key has a passphrase",
}


@pytest.mark.parametrize("how", WRONG, ids=lambda how: how.__name__)
def test_what_is_wrong_is_said(tmp_path: Path, how: Callable[[Authority], None]) -> None:
    pki = Authority(tmp_path)
    how(pki)
    with pytest.raises(CertificateProblem, match=WRONG[how]):
        load(pki.config, time.time())


def test_one_that_is_not_valid_yet_is_refused(tmp_path: Path) -> None:
    pki = Authority(tmp_path)
    pki.issue()
    with pytest.raises(CertificateProblem, match="look at the clock"):
        load(pki.config, time.time() - 500 * DAY)


def test_from_credentials_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pki = Authority(tmp_path)
    pki.issue(days=30)
    config = TlsConfig(certificate=SecretSource(credential="tls.crt"), key=SecretSource(credential="tls.key"))
    with pytest.raises(CertificateProblem, match="LoadCredential=tls.crt"):
        load(config, time.time())
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load(config, time.time()).expires_at == pytest.approx(time.time() + 30 * DAY, abs=10)


def test_a_new_pair_is_taken_and_a_bad_one_is_not(tmp_path: Path) -> None:
    pki, now = Authority(tmp_path), [time.time()]
    pki.issue(days=90)
    served = Certificate(pki.config, lambda: now[0])
    first = served.pair
    assert not served.look() and served.pair is first and served.warning() is None
    pki.issue(days=30, key=False)
    assert not served.look() and served.pair is first
    warning = served.warning()
    assert warning is not None and "is not the key of" in warning and "the last good one goes on" in warning
    pki.issue(days=30)
    assert served.look() and served.pair is not first and served.warning() is None
    assert served.expires_at == pytest.approx(now[0] + 30 * DAY, abs=10)
    now[0] += 20 * DAY
    assert "expires in 10.0 days" in str(served.warning())
    now[0] += 20 * DAY
    assert "it has expired" in str(served.warning())
    assert not served.look()  # the same one now counts as bad, and still goes on
    assert "expired at" in str(served.problem)


def test_one_that_expired_while_the_daemon_was_away_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    pki = Authority(tmp_path)
    _expired(pki)
    served = Certificate(pki.config, time.time)
    assert "it has expired" in str(served.warning())
    pki.issue(days=30)
    assert served.look() and served.warning() is None
