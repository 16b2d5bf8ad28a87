"""A ClickHouse server for tests: the real engine (chdb, ClickHouse in this process) behind as much of its HTTP
interface as clickhouse-connect uses. Nothing of ClickHouse's behaviour is imitated here but HTTP and the login.

usage: python -m tests.clickhouse FOLDER PORT PASSWORD
"""

from __future__ import annotations

import base64
import http.server
import queue
import re
import socketserver
import sys
import uuid
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, urlsplit

import chdb.session
import lz4.frame
from backports import zstd

USER: Final = "tenure"
_CODE: Final = re.compile(r"Code: (\d+)")
_FORMAT: Final = re.compile(r"\sFORMAT\s+(\w+)\s*$", re.IGNORECASE)
_NO_SETTINGS: Final = {
    "query",
    "database",
    "default_format",
    "session_id",
    "query_id",
    "user",
    "password",
    "enable_http_compression",
    "wait_end_of_query",
    "buffer_size",
    "http_headers_progress_interval_ms",
    "send_progress_in_http_headers",
    "compress",
    "decompress",
    "client_protocol_version",
}


class Session(Protocol):
    """What is used of `chdb.session.Session`, which has no types."""

    def query(self, sql: str, fmt: str = ..., *, params: dict[str, Any] | None = ...) -> Any: ...
    def send_insert(self, query: str, fmt: str) -> Any: ...


class Sessions:
    """Sessions over one folder; each serves one request at a time."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._idle: queue.SimpleQueue[Session] = queue.SimpleQueue()

    def take(self) -> Session:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            opened: Callable[[str], Session] = chdb.session.Session
            return opened(self._folder)

    def give_back(self, session: Session) -> None:
        self._idle.put(session)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/ping":
            self._send(200, b"Ok.\n")
            return
        body = self._body()
        if not self._let_in():
            self._send(403, b"Code: 516. DB::Exception: Authentication failed. (AUTHENTICATION_FAILED)", 516)
            return
        given = dict(parse_qsl(url.query, keep_blank_values=True))
        try:
            answer = self._run(given, body)
        except RuntimeError as error:
            text = str(error)
            code = _CODE.search(text)
            self._send(500, text.encode(), int(code[1]) if code else 1001)
            return
        self._send(200, answer)

    def _run(self, given: dict[str, str], body: bytes) -> bytes:
        settings = {k: v for k, v in given.items() if k not in _NO_SETTINGS and not k.startswith("param_")}
        parameters: dict[str, Any] = {
            k.removeprefix("param_"): v for k, v in given.items() if k.startswith("param_")
        }
        session = self.server.sessions.take()
        try:
            for name, value in settings.items():
                session.query(f"set {name} = '{value}'")
            if given.get("database"):
                session.query(f"use `{given['database']}`")
            query = given.get("query", "")
            if not query and body[:6].lower() == b"insert":
                # The statement on a line of its own, and then its data.
                head, _, data = body.partition(b"\n")
                if _FORMAT.search(head.decode(errors="replace")):
                    query, body = head.decode(), data
            if query.lstrip().lower().startswith("insert") and body:
                form = _FORMAT.search(query)
                with session.send_insert(_FORMAT.sub("", query), form[1] if form else "Native") as insert:
                    insert.append(body)
                    insert.finish()
                return b""
            text = (query + body.decode()).rstrip().rstrip(";")
            form = _FORMAT.search(text)
            answer = session.query(
                _FORMAT.sub("", text),
                form[1] if form else given.get("default_format", "TabSeparated"),
                params=parameters or None,
            )
            return bytes(answer.bytes()) if hasattr(answer, "bytes") else str(answer).encode()
        finally:
            for name in settings:
                session.query(f"set {name} = default")
            self.server.sessions.give_back(session)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        match self.headers.get("Content-Encoding"):
            case "lz4":
                return bytes(lz4.frame.decompress(content))
            case "zstd":
                return zstd.decompress(content)
            case _:
                return content

    def _let_in(self) -> bool:
        wanted = base64.b64encode(f"{USER}:{self.server.password}".encode()).decode()
        return self.headers.get("Authorization") == f"Basic {wanted}"

    def _send(self, status: int, content: bytes, code: int | None = None) -> None:
        self.send_response(status)
        self.send_header("X-ClickHouse-Timezone", "UTC")
        self.send_header("X-ClickHouse-Query-Id", str(uuid.uuid4()))
        if code is not None:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, folder: str, password: str) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.sessions = Sessions(folder)
        self.password = password


def main() -> None:
    folder, port, password = sys.argv[1:]
    with Server(int(port), folder, password) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
