"""The load generator as a process of its own, so that it neither slows nor shares the fate of who started it.

One line of JSON on its standard input is a command, one on its standard output the answer. It stops in
order on `stop`, on SIGTERM or SIGINT, and when its standard input ends, that is: when whoever started it is
gone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

from rag_app.history import Counts, History, Latency, encode
from rag_app.load import Generator, LoadSettings

_FLUSH_S: Final = 0.2
_ANSWER_S: Final = 10.0
_LOG_TAIL: Final = 2000


class LoadFailed(Exception):
    """The load generator's process ended or does not answer; the message has the end of its log."""


class LoadProcess:
    """The side of who starts it. `with LoadProcess.start(...) as load: ...; history = load.stop()`

    Leaving the `with` without `stop` ends the process; the history's file stays.
    """

    def __init__(self, process: subprocess.Popen[str], history: Path, log: Path, timeout_s: float) -> None:
        self._process = process
        self._history = history
        self._log = log
        self._timeout_s = timeout_s
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._lock = threading.Lock()
        self._asked = 0
        threading.Thread(target=self._listen, name="load-answers", daemon=True).start()

    @staticmethod
    def start(settings: LoadSettings, history: Path, log: Path | None = None) -> LoadProcess:
        """Start the load; return when the process is there and makes requests. `history` is written anew."""
        log = log or history.with_suffix(".log")
        here = str(Path(__file__).parent.parent)
        path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "rag_app.load_process",
                    "--history",
                    str(history),
                    json.dumps(asdict(settings)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": path},
                text=True,
                start_new_session=True,  # Ctrl-C is for whoever started it
            )
        load = LoadProcess(process, history, log, settings.timeout_s)
        try:
            load._ask("stats")
        except LoadFailed:
            load.close()
            raise
        return load

    def stats(self, tenant: str | None = None) -> Counts:
        """What has happened so far."""
        return Counts(**self._ask("stats", tenant=tenant))

    def latency(
        self, since: float | None = None, until: float | None = None, tenant: str | None = None
    ) -> Latency:
        """As `History.latency`, of the requests that have ended so far. Times as of `time.time()`."""
        return Latency(**self._ask("latency", since=since, until=until, tenant=tenant))

    def pause(self) -> None:
        """Begin no more requests; those under way end."""
        self._ask("pause")

    def resume(self) -> None:
        self._ask("resume")

    def stop(self) -> History:
        """Let the requests under way end, and return all that happened. Raises `LoadFailed` if it cannot be
        all."""
        self._ask("stop", deadline_s=self._timeout_s + _ANSWER_S)
        self.close()
        history = History.load(self._history)
        if not history.complete:
            raise LoadFailed(f"{self._history} lacks requests{self._log_tail()}")
        return history

    def close(self) -> None:
        """End the process, in order if it can. Idempotent."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        for harder in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(timeout=self._timeout_s + 5)
                return
            except subprocess.TimeoutExpired:
                harder()
        self._process.wait(timeout=5)

    def __enter__(self) -> LoadProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, command: str, *, deadline_s: float = _ANSWER_S, **arguments: Any) -> dict[str, Any]:
        with self._lock:
            self._asked += 1
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(
                    json.dumps({"id": self._asked, "command": command, **arguments}) + "\n"
                )
                self._process.stdin.flush()
                while True:
                    answer = self._answers.get(timeout=deadline_s)
                    if answer["id"] in {self._asked, None}:
                        break
            except (BrokenPipeError, ValueError, queue.Empty) as error:
                raise LoadFailed(f"the load generator does not answer{self._log_tail()}") from error
        if "result" not in answer:
            raise LoadFailed(f"{answer['error']}{self._log_tail()}")
        result: dict[str, Any] = answer["result"]
        return result

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))
        self._process.stdout.close()
        self._answers.put({"id": None, "error": "the load generator has ended"})

    def _log_tail(self) -> str:
        text = self._log.read_text("utf-8", errors="replace")[-_LOG_TAIL:].strip()
        return f": {text}" if text else ""


class _Recorder:
    """Keeps the requests and writes them to the file, a few times a second and not with each one."""

    def __init__(self, file: IO[str]) -> None:
        self.history = History()
        self._file = file
        self._written = 0

    def flush(self) -> None:
        fresh = self.history.requests[self._written :]
        self._file.write("".join(map(encode, fresh)))
        self._file.flush()
        self._written += len(fresh)

    def end(self) -> None:
        self.flush()
        self._file.write(json.dumps({"requests": self._written}) + "\n")
        self._file.flush()


async def serve(settings: LoadSettings, file: IO[str]) -> None:
    """The generator's side: make requests and obey until the end of the input, `stop` or a signal."""
    recorder = _Recorder(file)
    generator = Generator(settings, recorder.history.add)
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, generator.stop)
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    waiting_for_end: list[int] = []
    commands = asyncio.create_task(_obey(reader, generator, recorder.history, waiting_for_end.append))
    flushing = asyncio.create_task(_flush(recorder))
    try:
        await generator.run()
        recorder.end()
    finally:
        flushing.cancel()
        commands.cancel()
        transport.close()
        recorder.flush()
    for number in waiting_for_end:
        _say({"id": number, "result": {}})


async def _flush(recorder: _Recorder) -> None:
    while True:
        await asyncio.sleep(_FLUSH_S)
        recorder.flush()


async def _obey(
    reader: asyncio.StreamReader, generator: Generator, history: History, at_end: Callable[[int], None]
) -> None:
    """Until told to stop, or until nobody listens any more: the load never outlives who asked for it."""
    try:
        while line := await reader.readline():
            command: dict[str, Any] = json.loads(line)
            if command["command"] == "stop":
                at_end(command["id"])
                break
            _say({"id": command["id"], "result": _obeyed(command, generator, history)})
    except BrokenPipeError:
        return
    finally:
        generator.stop()


def _obeyed(command: Mapping[str, Any], generator: Generator, history: History) -> dict[str, Any]:
    window = {name: command.get(name) for name in ("since", "until", "tenant")}
    match command["command"]:
        case "stats":
            return asdict(history.counts(**window))
        case "latency":
            return asdict(history.latency(**window))
        case "pause":
            generator.pause()
        case "resume":
            generator.resume()
    return {}


def _say(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="rag_app.load_process", description="Make load through the gateway."
    )
    parser.add_argument("--history", required=True, type=Path, help="where to write what happened (JSONL)")
    parser.add_argument("settings", help="rag_app.load.LoadSettings as JSON")
    arguments = parser.parse_args()
    with arguments.history.open("w", encoding="utf-8") as file:
        asyncio.run(serve(LoadSettings(**json.loads(arguments.settings)), file))


if __name__ == "__main__":
    main()
