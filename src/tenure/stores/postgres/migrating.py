"""Runs the app's own command that migrates a database: without a shell, with little of our environment, for a limited
time, and with its last words in the error if it fails."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict

from tenure.catalogue.evolution import MigrateCommand
from tenure.errors import DeadlineExceeded, StoreRefused
from tenure.model.secret import Secret

PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH")
LAST_WORDS: Final = 2_000
"""How many characters of what a failed command wrote are shown."""
_KEPT: Final = (
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "options",
    "connect_timeout",
    "target_session_attrs",
)


class MigrationFailed(StoreRefused):
    """The app's command ended with an error: `words` is the end of what it wrote."""

    def __init__(self, message: str, *, words: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.words = words


def missing_program(migrate: MigrateCommand) -> str | None:
    """Why the command could not be started here; None if its program is there."""
    program = migrate.command[0]
    folder = migrate.folder
    if folder is not None and not folder.is_dir():
        return f"there is no folder {folder}"
    at = str(folder / program) if folder is not None and "/" in program else program
    return None if shutil.which(at) else f"there is no program {program!r} on this machine"


def run(migrate: MigrateCommand, dsn: Secret, values: Mapping[str, str]) -> str:
    """Run the command against that database and give the end of what it wrote.

    Raises `MigrationFailed` with its last words, without the password, or `DeadlineExceeded` when it was ended with all
    it had started. Whatever it has done to the database by then stays.
    """
    missing = missing_program(migrate)
    if missing is not None:
        raise StoreRefused(
            f"the app's migrations cannot run: {missing}",
            hint="install the app's release here, or mend catalogue.yaml",
        )
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment |= {**migrate.environment, migrate.url_variable: url(dsn, migrate.url_scheme)}
    arguments = migrate.arguments(values)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603  (the operator's own command, without a shell)
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=migrate.folder,
            env=environment,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=migrate.timeout_s)
        except BaseException as error:
            _end(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            status = None
        output.seek(max(0, output.seek(0, os.SEEK_END) - 2 * LAST_WORDS))
        words = _without_password(output.read().decode("utf-8", "replace"), dsn)[-LAST_WORDS:].strip()
    said = " ".join(arguments)
    if status is None:
        raise DeadlineExceeded(
            f"the app's migrations ({said}) did not end within {migrate.timeout_s:g} s and were ended: {words}",
            hint="give them more time in catalogue.yaml (migrations.migrate.timeout_s), if they need it",
        )
    if status != 0:
        raise MigrationFailed(
            f"the app's migrations ({said}) failed with status {status}: {words}",
            words=words,
            hint="the live tenant is as it was; what the command wrote says why it failed",
        )
    return words


def url(dsn: Secret, scheme: str) -> str:
    """The connection string as a URL, which every library reads. What is no part of it goes into its query."""
    given = conninfo_to_dict(dsn.reveal())
    host, port = str(given.get("host") or given.get("hostaddr") or "localhost"), given.get("port")
    user, password = given.get("user"), given.get("password")
    login = quote(str(user), safe="") if user else ""
    if password:
        login += f":{quote(str(password), safe='')}"
    query = {name: str(given[name]) for name in _KEPT if given.get(name)}
    if host.startswith("/"):
        query["host"], host = host, ""
        if port:
            query["port"], port = str(port), None
    at = f"[{host}]" if ":" in host else host
    place = f"{at}:{port}" if port else at
    database = quote(str(given.get("dbname") or given.get("user") or ""), safe="")
    tail = f"?{urlencode(query)}" if query else ""
    return f"{scheme}://{login}{'@' if login else ''}{place}/{database}{tail}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and everything in its session; what it has started must not write on."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _without_password(words: str, dsn: Secret) -> str:
    password = conninfo_to_dict(dsn.reveal()).get("password")
    if not password:
        return words
    for form in {str(password), quote(str(password), safe="")}:
        words = words.replace(form, "**redacted**")
    return words
