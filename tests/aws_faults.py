"""A proxy in front of moto's server that fails as AWS does: moto throttles nobody, checks no keys, answers at once, and
its page tokens never expire. What no rule applies to is passed on as it is."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

HOP_BY_HOP: Final = frozenset({"connection", "transfer-encoding", "content-length", "host"})


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request: the operation (`PutLogEvents`), who signed it, its fields where it is JSON."""

    operation: str
    credential: str
    fields: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is answered instead. `after`: once the request was passed on all the same, whose answer is lost. None as a
    status breaks the connection. `silent`: no answer at all, until the proxy closes."""

    status: int | None = 400
    body: bytes = b""
    after: bool = False
    silent: bool = False
    edit: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """Pass on, and change the fields of the answer."""


def refused(code: str, *, status: int = 400, after: bool = False) -> Answer:
    """An error of that code, as JSON services answer it."""
    body = json.dumps({"__type": code, "message": code}).encode()
    return Answer(status=status, body=body, after=after)


@dataclass
class _Rule:
    answer: Answer
    when: Callable[[Asked], bool]
    times: int | None
    seen: int = 0
    skip: int = 0


@dataclass
class FaultyAws:
    """A proxy on a free port. Rules are tried in the order in which they were made."""

    upstream: str
    asked: list[str] = field(default_factory=list)
    """The operations of all requests, in the order in which they came."""

    def __post_init__(self) -> None:
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                proxy.handle(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def answer(
        self,
        answer: Answer,
        *,
        operation: str | None = None,
        when: Callable[[Asked], bool] = lambda _asked: True,
        times: int | None = None,
        skip: int = 0,
    ) -> None:
        """Answer so to requests of that operation for which `when` holds: after the first `skip`, so many times."""
        with self._lock:
            self._rules.append(
                _Rule(
                    answer,
                    lambda asked: (operation is None or asked.operation == operation) and when(asked),
                    times,
                    skip=skip,
                )
            )

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        asked = _asked(request, body)
        with self._lock:
            self.asked.append(asked.operation)
            rule = next((r for r in self._rules if r.times != 0 and r.when(asked)), None)
            if rule is not None and rule.skip:
                rule.skip -= 1
                rule = None
            elif rule is not None and rule.times is not None:
                rule.times -= 1
        answer = rule.answer if rule is not None else None
        if answer is None or answer.after or answer.edit:
            status, headers, content = self._passed_on(request, body)
        if answer is None or answer.edit:
            if answer is not None and answer.edit is not None:
                content = json.dumps(answer.edit(json.loads(content))).encode()
            _reply(request, status, headers, content)
        elif answer.silent:
            self._closing.wait()
            request.close_connection = True
        elif answer.status is None:
            request.close_connection = True
        else:
            _reply(request, answer.status, {"Content-Type": "application/x-amz-json-1.1"}, answer.body)

    def _passed_on(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.upstream).netloc, timeout=30)
        try:
            headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
            connection.request("POST", request.path, body=body, headers=headers)
            answer = connection.getresponse()
            kept = {k: v for k, v in answer.getheaders() if k.lower() not in HOP_BY_HOP}
            return answer.status, kept, answer.read()
        finally:
            connection.close()

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _asked(request: BaseHTTPRequestHandler, body: bytes) -> Asked:
    target = request.headers.get("X-Amz-Target", "") or request.path.rpartition("/")[2]
    try:
        fields = json.loads(body)
    except ValueError:
        fields = {}
    return Asked(
        operation=target.rpartition(".")[2],
        credential=request.headers.get("Authorization", ""),
        fields=fields if isinstance(fields, dict) else {},
    )


def _reply(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    request.send_response(status)
    for name, value in headers.items():
        if name.lower() not in {"date", "server"}:
            request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
