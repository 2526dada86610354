"""Answers that are not what was asked for, in the words and the ``Status`` object of the real API server."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

Json = dict[str, Any]


class ApiError(Exception):
    """An answer of the API other than success.

    :param code: the HTTP status.
    :param reason: the machine's word for it (``NotFound``, ``Forbidden``, ``Invalid`` …).
    :param message: the sentence that a person reads.
    :param details: the object that it is about.
    """

    def __init__(self, code: HTTPStatus, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> Json:
        """Return the ``Status`` object to send."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            **({"details": self.details} if self.details else {}),
            "code": int(self.code),
        }


def not_found(resource: str, name: str) -> ApiError:
    """Return the error for an object that is not there."""
    details = {"name": name, "kind": resource}
    return ApiError(HTTPStatus.NOT_FOUND, "NotFound", f'{resource} "{name}" not found', details)


def already_exists(resource: str, name: str) -> ApiError:
    """Return the error for a name that is taken."""
    details = {"name": name, "kind": resource}
    return ApiError(HTTPStatus.CONFLICT, "AlreadyExists", f'{resource} "{name}" already exists', details)


def forbidden(resource: str, name: str, why: str) -> ApiError:
    """Return the error for what an admission check or the permissions refuse."""
    message = f'{resource} "{name}" is forbidden: {why}' if name else f"{resource} is forbidden: {why}"
    return ApiError(HTTPStatus.FORBIDDEN, "Forbidden", message, {"name": name, "kind": resource})


def invalid(kind: str, name: str, causes: list[tuple[str, str]]) -> ApiError:
    """Return the error for an object whose fields do not fit.

    :param causes: (path of the field, what is wrong with it), in the order they were found.
    """
    listed = [f"{field}: {what}" for field, what in causes]
    said = listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"
    details = {
        "name": name,
        "kind": kind,
        "causes": [{"reason": "FieldValueInvalid", "message": what, "field": field} for field, what in causes],
    }
    return ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", f'{kind} "{name}" is invalid: {said}', details)


def bad_request(message: str) -> ApiError:
    """Return the error for a request that cannot be understood."""
    return ApiError(HTTPStatus.BAD_REQUEST, "BadRequest", message)


def not_modelled(what: str) -> ApiError:
    """Return the error for what the real API can do and this double cannot: it never pretends."""
    message = f"the Kubernetes double does not model {what}; try it on a real cluster"
    return ApiError(HTTPStatus.NOT_IMPLEMENTED, "NotImplemented", message)
