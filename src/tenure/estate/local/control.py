"""How a supervisor is spoken to: one JSON line each way over a Unix socket in the data folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tenure.errors import (
    ConfigurationError,
    DeadlineExceeded,
    NotAllowed,
    StoreUnavailable,
    TenureError,
    UnknownName,
    UsageError,
)

SOCKET: Final = "control.sock"
_ERRORS: Final[Mapping[str, type[TenureError]]] = {
    error.code: error
    for error in (ConfigurationError, DeadlineExceeded, NotAllowed, StoreUnavailable, UnknownName, UsageError)
}


def error_as_json(error: TenureError) -> dict[str, Any]:
    """The error for the other side."""
    return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}


def raise_error(answer: Mapping[str, Any]) -> None:
    """Raise the error that the other side reported, if it did."""
    error = answer.get("error")
    if error:
        raise _ERRORS.get(error["code"], StoreUnavailable)(error["message"], hint=error["hint"])


def listen(folder: Path) -> socket.socket:
    """The listening socket; only the same user may connect."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    (folder / SOCKET).unlink(missing_ok=True)
    descriptor = os.open(folder, os.O_PATH)
    before = os.umask(0o177)
    try:
        listener.bind(_short_path(descriptor))
    finally:
        os.umask(before)
        os.close(descriptor)
    listener.listen()
    return listener


def ask(folder: Path, request: Mapping[str, Any], *, deadline_s: float) -> dict[str, Any]:
    """Have the supervisor do something. Raises what it raised, `StoreUnavailable` if there is none,
    `DeadlineExceeded`."""
    descriptor = os.open(folder, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(deadline_s)
            connection.connect(_short_path(descriptor))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline()
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"the estate in {folder} did not finish `{request['do']}` within {deadline_s:g} s"
        ) from error
    except OSError as error:
        raise StoreUnavailable(
            f"no estate is running in {folder}", hint="`tenure estate up` starts it"
        ) from error
    finally:
        os.close(descriptor)
    if not line:
        raise StoreUnavailable(f"the estate in {folder} ended before it answered")
    answer: dict[str, Any] = json.loads(line)
    raise_error(answer)
    return answer


def _short_path(descriptor: int) -> str:
    """A path of bounded length: an address of a Unix socket holds 108 bytes, a data folder's name may be
    longer."""
    return f"/proc/self/fd/{descriptor}/{SOCKET}"
