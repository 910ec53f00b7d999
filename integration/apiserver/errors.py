"""Failures as the API reports them: a Status object and an HTTP code."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """code: of HTTP. details: of the Status. retry_after: seconds, sent as a header, too. proceed: a continue token."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: dict[str, Any] | None = None,
        *,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.retry_after = retry_after
        self.proceed = ""
        self.details = dict(details or {})
        if retry_after is not None:
            self.details["retryAfterSeconds"] = retry_after

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self.proceed} if self.proceed else {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details:
            status["details"] = self.details
        return {**status, "code": self.code}


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def invalid_options(causes: list[tuple[str, str]]) -> ApiError:
    """causes: field and what is wrong with it, which is an ErrorList's text."""
    text = ", ".join(f"{field}: {message}" for field, message in causes)
    kinds = [
        {
            "reason": "FieldValueForbidden" if message.startswith("Forbidden") else "FieldValueNotSupported",
            "message": message,
            "field": field,
        }
        for field, message in causes
    ]
    details = {"group": "meta.k8s.io", "kind": "ListOptions", "causes": kinds}
    text = f"[{text}]" if len(causes) > 1 else text
    return ApiError(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {text}', details)


def not_found(resource: str, name: str, group: str = "") -> ApiError:
    qualified = f"{resource}.{group}" if group else resource
    details = {"name": name, **({"group": group} if group else {}), "kind": resource}
    return ApiError(404, "NotFound", f'{qualified} "{name}" not found', details)


def no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def conflict(resource: str, name: str, group: str, why: str = "") -> ApiError:
    qualified = f"{resource}.{group}" if group else resource
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    details = {"name": name, **({"group": group} if group else {}), "kind": resource}
    return ApiError(409, "Conflict", f'Operation cannot be fulfilled on {qualified} "{name}": {why}', details)


def already_exists(resource: str, name: str, group: str) -> ApiError:
    qualified = f"{resource}.{group}" if group else resource
    details = {"name": name, **({"group": group} if group else {}), "kind": resource}
    return ApiError(409, "AlreadyExists", f'{qualified} "{name}" already exists', details)


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def too_large_version(asked: int, current: int) -> ApiError:
    """Returns the error that clients recognise by its cause (apiserver/pkg/storage/errors.go)."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    text = f"Too large resource version: {asked}, current: {current}"
    return ApiError(504, "Timeout", f"Timeout: {text}", {"causes": [cause]}, retry_after=1)
