"""A fleet on the tests' estate: a broker, workers as child processes, and commands that use them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tenure.estate.config import Estate, load_estate
from tenure.model.names import TenantId
from tenure.model.operation import Operation
from tenure.registry.registry import Registry
from tenure.registry.workers import Presence
from tenure.wiring import open_dispatcher, open_registry, open_service
from tests import warm
from tests.estate import CommandResult, TestEstate

ROOT = Path(__file__).parents[1]


class WorkerProcess:
    """One `tenure worker` in a session of its own: its pool's processes are signalled with it or alone."""

    def __init__(self, module: str, args: Sequence[str], log: Path) -> None:
        self.log = log
        log.touch()
        self._process = warm.start(module, args, out=log, err=log, cwd=ROOT, session=True)
        self.pid = self._process.pid

    def signal(self, number: int) -> None:
        """Send it to the worker alone."""
        os.kill(self.pid, number)

    def signal_all(self, number: int) -> None:
        """Send it to the worker and everything below it."""
        os.killpg(self.pid, number)

    def wait(self, *, deadline_s: float = 60.0) -> int:
        """Wait for its end; the exit code."""
        return self._process.wait(timeout=deadline_s)

    def children(self) -> tuple[int, ...]:
        """The processes of its pool that live."""
        try:
            return tuple(
                int(c) for c in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            )
        except (FileNotFoundError, ProcessLookupError):
            return ()

    def end(self) -> None:
        if self._process.poll() is None:
            self.signal_all(signal.SIGCONT)
            self.signal_all(signal.SIGKILL)
        self._process.wait()


class Command:
    """One run of `tenure` beside the test."""

    def __init__(self, args: Sequence[str], log: Path) -> None:
        self._log, self._out = log, log.with_suffix(".out")
        log.touch()
        self._out.touch()
        self._process = warm.start("tenure.cli.main", args, out=self._out, err=log, cwd=ROOT)

    @property
    def stdout(self) -> str:
        """What it has answered so far."""
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return self._log.read_text()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def result(self, *, deadline_s: float = 180.0) -> CommandResult:
        """Wait for its end."""
        code = self._process.wait(deadline_s)
        return CommandResult(exit_code=code, stdout=self.stdout, stderr=self.stderr)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass
class Fleet:
    """The workers of one namespace. Tests that share an estate have namespaces of their own."""

    estate: TestEstate
    config: Path
    _folder: Path
    _workers: list[WorkerProcess] = field(default_factory=list)
    _commands: list[Command] = field(default_factory=list)

    def worker(self, *args: str, point: str | None = None) -> WorkerProcess:
        """Start a worker and wait until it can be seen. With `point` the process that comes to it kills itself
        (`POINT:stop`: stops itself) there, the first time."""
        known = {seen.id for seen in self.living()}
        log = self._folder / f"worker-{len(self._workers)}.log"
        if point:
            worker = WorkerProcess("tests.faults.worker", [str(self.config), point, *args], log)
        else:
            worker = WorkerProcess("tenure.cli.main", ["--config", str(self.config), "worker", *args], log)
        self._workers.append(worker)
        wait_until(
            lambda: {seen.id for seen in self.living()} - known,
            lambda: f"the worker did not come up:\n{log.read_text()}",
        )
        return worker

    @cached_property
    def loaded(self) -> Estate:
        """What the configuration says: read once, because tests ask again and again while they wait."""
        return load_estate(self.config)

    def living(self) -> tuple[Presence, ...]:
        fleet = self.loaded.fleet
        with self.registry() as registry:
            return tuple(
                seen
                for seen in registry.workers.living(silent_s=fleet.silent_s)
                if seen.queues and seen.queues[0].startswith(f"{fleet.namespace}.")
            )

    @contextmanager
    def registry(self) -> Iterator[Registry]:
        registry = open_registry(self.loaded)
        try:
            yield registry
        finally:
            registry.close()

    def tick(self) -> list[str]:
        """What a scheduler does now and then: let begin what waits for capacity, and announce what is due. The
        operations that a worker was told of."""
        estate = self.loaded
        with closing(open_service(self.config)) as service:
            service.admit_waiting()
        with self.registry() as registry:
            dispatcher = open_dispatcher(estate, registry)
            assert dispatcher is not None
            try:
                due = [registry.operations.get(name) for name in registry.operations.due()]
                return [operation.id for operation in due if dispatcher.wake(operation)]
            finally:
                dispatcher.close()

    def command(self, *args: str, timeout_s: float = 180.0) -> CommandResult:
        """Run `tenure` with its progress on stderr."""
        return self.begin(*args).result(deadline_s=timeout_s)

    def begin(self, *args: str) -> Command:
        """Run `tenure` beside the test."""
        command = Command(
            ["--config", str(self.config), *args], self._folder / f"command-{len(self._commands)}.log"
        )
        self._commands.append(command)
        return command

    def wake(self, operation: str) -> None:
        """Send one more message about it."""
        with self.registry() as registry:
            dispatcher = open_dispatcher(self.loaded, registry)
            assert dispatcher is not None
            assert dispatcher.wake(registry.operations.get(operation), again=True)
            dispatcher.close()

    def latest(self, tenant: str) -> Operation | None:
        """The tenant's latest operation, if there is one."""
        with self.registry() as registry:
            return next(iter(registry.operations.list(tenant=TenantId(tenant), limit=1)), None)

    def operation(self, tenant: str) -> Operation:
        found = self.latest(tenant)
        assert found is not None
        return found

    def holder(self, tenant: str, step: str) -> int:
        """The process that runs that step of the tenant's latest operation, once there is one."""
        found: list[int] = []

        def look() -> bool:
            latest = self.latest(tenant)
            if latest is None:
                return False
            with self.registry() as registry:
                steps = registry.steps.list(latest.id)
            found[:] = [
                int(s.holder.split(":")[1])
                for s in steps
                if s.name == step and s.holder and s.state == "running"
            ]
            return bool(found)

        wait_until(look, lambda: f"{step} of {tenant} is run")
        return found[0]

    def actions(self, operation: str) -> list[str]:
        with self.registry() as registry:
            return [event.action for event in registry.events.list(operation=operation)]

    def end(self) -> None:
        """End every command and every worker, and wait until none is counted on."""
        for command in self._commands:
            command.end()
        for worker in self._workers:
            worker.end()
        wait_until(lambda: not self.living(), lambda: "the dead are not counted on")


@contextmanager
def fleet(
    estate: TestEstate,
    folder: Path,
    *,
    broker: str,
    namespace: str,
    settings: Mapping[str, Any] | None = None,
    capacity: Mapping[str, Any] | None = None,
) -> Iterator[Fleet]:
    """A fleet without workers: `worker` starts them, and all of them end with the block.

    `settings` are those of the block `fleet`, `capacity` is that block.
    """
    home = estate.config.parent
    document = yaml.safe_load(estate.config.read_text())
    secret = home / "etc" / "secrets" / f"broker-{namespace}"
    secret.write_text(broker)
    document["fleet"] = {
        "broker": {"file": str(secret)},
        "namespace": namespace,
        "presence_s": 0.5,
        "wake_again_s": 1,
        **(settings or {}),
    }
    if capacity is not None:
        document["capacity"] = dict(capacity)
    config = home / f"{namespace}.yaml"
    config.write_text(yaml.safe_dump(document, sort_keys=False))
    made = Fleet(estate, config, folder)
    try:
        yield made
    finally:
        made.end()
        config.unlink()


def process_state(pid: int) -> str:
    """The letter of its state: `T` for a process that has stopped itself."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]


def wait_until(condition: Callable[[], object], what: Callable[[], str], *, deadline_s: float = 60.0) -> None:
    """Poll until the condition holds; fail with `what` at the deadline."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {deadline_s:g} s: {what()}"
        time.sleep(0.1)
