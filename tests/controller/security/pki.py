"""An authority of our own, and certificates that it gives."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from controller.config_sections import TlsConfig
from providers.secret import SecretSource


class Authority:
    """Signs certificates for 127.0.0.1, and writes them down where a daemon reads them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
        made = self._sign(self._name, self._key.public_key(), days=3650, is_authority=True)
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_bytes(made)
        self.certificate, self.key = directory / "tls.crt", directory / "tls.key"

    @property
    def config(self) -> TlsConfig:
        """[daemon.tls] for the pair that lies there."""
        return TlsConfig(certificate=SecretSource(file=self.certificate), key=SecretSource(file=self.key))

    def issue(self, days: float = 90, *, key: bool = True) -> bytes:
        """Put a new pair there, or with `key` False its certificate only; the certificate."""
        private = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "everpool of a test")])
        made = self._sign(subject, private.public_key(), days=days)
        self.certificate.write_bytes(made)
        if key:
            self.key.touch(mode=0o600)
            self.key.write_bytes(
                private.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
        return made

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, days: float, is_authority: bool = False
    ) -> bytes:
        now = datetime.now(UTC)
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=400))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(names, critical=False)
        )
        identifier = x509.SubjectKeyIdentifier.from_public_key(key)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(identifier, critical=False).add_extension(issuer, critical=False)
        usage = x509.KeyUsage(True, False, False, False, False, is_authority, is_authority, False, False)
        signed = builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)
