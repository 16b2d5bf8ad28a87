"""References to secrets: configuration says where a secret is, never what it is."""

from __future__ import annotations

import os
import pathlib
import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator

from tenure.document import REFUSED, Block, Described, refuse
from tenure.document.problems import did_you_mean, shown
from tenure.document.reading import kind_of
from tenure.errors import ConfigurationError
from tenure.model.secret import Secret

MAX_BYTES: Final = 64 * 1024
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORM: Final = "a secret is given as {env: NAME} or {file: PATH}"


@dataclass(frozen=True, kw_only=True)
class SecretRef:
    """Where a secret is. `name` is the variable or the absolute path; `where` is the setting's place in
    its file."""

    source: Literal["env", "file"]
    name: str
    where: str

    def resolve(self) -> Secret:
        """The secret as it is now: read at every call, so a rotated one is seen. A line break at its end is
        dropped.

        Raises `ConfigurationError` that names the setting and the variable or file.
        """
        value = self._from_env() if self.source == "env" else self._from_file()
        if not value:
            raise self._error("is empty")
        return Secret(value)

    def _from_env(self) -> str:
        value = os.environ.get(self.name)
        if value is None:
            raise self._error("is not set")
        return value

    def _from_file(self) -> str:
        try:
            with pathlib.Path(self.name).open("rb") as opened:
                raw = opened.read(MAX_BYTES + 1)
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror or 'not a file'}") from error
        if len(raw) > MAX_BYTES:
            raise self._error(f"is larger than {MAX_BYTES // 1024} KiB: that is no secret")
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise self._error("is not UTF-8 text") from None
        return text.removesuffix("\n").removesuffix("\r")

    def _error(self, what: str) -> ConfigurationError:
        named = f"the environment variable {self.name}" if self.source == "env" else f"the file {self.name}"
        problem = f"{self.where}: {named} {what}"
        return ConfigurationError(
            problem,
            problems=(problem,),
            hint="set the variable, or write the secret into the file, and try again",
        )


def _read(value: object) -> object:
    if isinstance(value, SecretRef) or value is REFUSED:
        return value
    if isinstance(value, str):
        raise refuse(
            "a secret must not be written here: move it to a file or an environment variable and write "
            "{file: PATH} or {env: NAME}"
        )
    if not isinstance(value, Block):
        raise refuse(f"{_FORM}, {'but is empty' if value is None else f'not as {kind_of(value)}'}")
    return _from_block(value)


def _from_block(block: Block) -> SecretRef:
    unknown = [name for name in block if name not in {"env", "file"}]
    if unknown:
        raise refuse(f"{_FORM}: {shown(unknown[0])} is neither{did_you_mean(unknown[0], ['env', 'file'])}")
    if len(block) != 1:
        raise refuse(f"{_FORM}: exactly one of the two")
    ((source, name),) = block.items()
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise refuse(f"{_FORM}: the {'name' if source == 'env' else 'path'} must be text")
    where = block.document.where(block.path)
    if source == "env":
        if not _VARIABLE.fullmatch(name):
            raise refuse(f"{_FORM}: NAME is only the name of a variable: letters, digits and '_'")
        return SecretRef(source="env", name=name, where=where)
    if "://" in name:
        raise refuse(f"{_FORM}: PATH is the path of the file that contains the secret, not the secret")
    path = (block.document.file.parent / pathlib.Path(name)).absolute()
    return SecretRef(source="file", name=str(path), where=where)


SecretSetting = Annotated[SecretRef, BeforeValidator(_read), Described(words="[secret](#secrets)")]
