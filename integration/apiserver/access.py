"""Authenticates requests by bearer tokens and client certificates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from integration.apiserver.errors import ApiError

ANONYMOUS = "system:anonymous"


@dataclass
class Access:
    """tokens: user names by token; replace or change them while the server runs, to rotate. required: who shows
    nothing is refused, instead of being let in as system:anonymous. Who shows a wrong token is refused always."""

    tokens: dict[str, str] = field(default_factory=dict)
    required: bool = False

    def user(self, headers: Mapping[str, str], certificate: Mapping[str, object] | None) -> str:
        """Returns the user. certificate: a verified one, as SSLSocket.getpeercert returns it. Raises ApiError (401)."""
        scheme, _, token = (headers.get("Authorization") or "").partition(" ")
        if scheme:
            user = self.tokens.get(token.strip()) if scheme.lower() == "bearer" else None
            if user is not None:
                return user
            raise ApiError(401, "Unauthorized", "Unauthorized")
        if certificate and (name := _common_name(certificate)):
            return name
        if self.required:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        return ANONYMOUS


def _common_name(certificate: Mapping[str, object]) -> str:
    subject = certificate.get("subject")
    if isinstance(subject, tuple):
        for parts in subject:
            for key, value in parts:
                if key == "commonName":
                    return str(value)
    return ""
