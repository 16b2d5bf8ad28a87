"""A proxy in front of an S3 that goes wrong on demand: answers that are lost, requests that are cut, errors. What it
forwards stays signed as it was, because the client's `Host` header goes along."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the proxy says instead of the server. With `forwarded` the server gets the request all the same; with
    `cut` the connection ends without an answer."""

    status: int = 200
    body: bytes = b""
    forwarded: bool = False
    cut: bool = False


def refusal(status: int, code: str) -> Answer:
    """As S3 says it."""
    return Answer(status=status, body=f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())


LOST = Answer(forwarded=True, cut=True)
"""The server has done it, and nobody hears of it."""
CUT = Answer(cut=True)
Rule = Callable[[Request], Answer | None]


class FaultyS3:
    """`rule` decides about every request; None of it lets it through. `seen` are all requests so far."""

    def __init__(self, endpoint: str) -> None:
        self._target = urlsplit(endpoint).netloc
        self.rule: Rule = lambda _request: None
        self.seen: list[Request] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()

            def _serve(self) -> None:
                parts = urlsplit(self.path)
                request = Request(
                    method=self.command,
                    path=parts.path,
                    query=parse_qs(parts.query, keep_blank_values=True),
                    body=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
                    headers={k.lower(): v for k, v in self.headers.items()},
                )
                proxy.seen.append(request)
                answer = proxy.rule(request)
                if answer is None or answer.forwarded:
                    status, headers, body = proxy._forward(self, request)
                if answer is not None and answer.cut:
                    self.close_connection = True
                    return
                if answer is not None and not answer.forwarded:
                    status, headers, body = answer.status, {"Content-Type": "application/xml"}, answer.body
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        return Handler

    def _forward(
        self, handler: BaseHTTPRequestHandler, request: Request
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self._target, timeout=30)
        try:
            connection.putrequest(request.method, handler.path, skip_host=True, skip_accept_encoding=True)
            for name, value in handler.headers.items():
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders(request.body or None)
            answer = connection.getresponse()
            dropped = {"transfer-encoding", "connection"} | (
                set() if request.method == "HEAD" else {"content-length"}
            )
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in dropped}
            return answer.status, headers, answer.read()
        finally:
            connection.close()


@contextlib.contextmanager
def faulty(endpoint: str) -> Iterator[FaultyS3]:
    proxy = FaultyS3(endpoint)
    try:
        yield proxy
    finally:
        proxy.close()


def times(n: int, answer: Answer, when: Callable[[Request], bool]) -> Rule:
    """This answer to the first `n` requests of that sort; the others go through."""
    left = [n]
    lock = threading.Lock()

    def rule(request: Request) -> Answer | None:
        if not when(request):
            return None
        with lock:
            left[0] -= 1
            return answer if left[0] >= 0 else None

    return rule
