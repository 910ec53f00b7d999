"""A certificate authority of the double's own, for its TLS and for client certificates."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import trustme

NAMES = ("localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default.svc")


class Certificates:
    """names: host names and addresses of the server."""

    def __init__(self, names: Iterable[str] = NAMES) -> None:
        self._authority = trustme.CA(organization_name="kubernetes")
        self._server = self._authority.issue_cert(*names, common_name="kube-apiserver")

    @property
    def authority(self) -> bytes:
        """The authority's certificate in PEM."""
        return self._authority.cert_pem.bytes()

    @property
    def authority_data(self) -> str:
        """The authority's certificate as a kubeconfig holds it."""
        return base64.b64encode(self.authority).decode()

    def server_context(self) -> ssl.SSLContext:
        """Returns the server's TLS context, which verifies client certificates, and requires none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.configure_cert(context)
        self._authority.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def client(self, user: str, expires: datetime | None = None) -> tuple[bytes, bytes]:
        """Returns certificate and key for a user in PEM."""
        made = self._authority.issue_cert(
            f"{user.replace(':', '-')}.client.invalid", common_name=user, not_after=expires
        )
        return b"".join(blob.bytes() for blob in made.cert_chain_pems), made.private_key_pem.bytes()

    def write(self, directory: Path, user: str = "") -> None:
        """Writes ca.crt, and client.crt and client.key for a user."""
        (directory / "ca.crt").write_bytes(self.authority)
        if user:
            certificate, key = self.client(user)
            (directory / "client.crt").write_bytes(certificate)
            (directory / "client.key").write_bytes(key)
            (directory / "client.key").chmod(0o600)
