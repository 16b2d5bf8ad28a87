"""What every command gets: the global options and, when first asked for, the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from tenure.cli.progress import ProgressLines
from tenure.errors import Declined
from tenure.service import Service
from tenure.wiring import open_service

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Context:
    config: Path
    as_json: bool
    quiet: bool

    @contextmanager
    def service(self) -> Iterator[Service]:
        service = open_service(self.config)
        try:
            yield service
        finally:
            service.close()

    def observer(self) -> ProgressLines:
        return ProgressLines(quiet=self.quiet)


pass_context = click.make_pass_decorator(Context)


def json_option(command: F) -> F:
    """`--json` after the command as well as before it."""

    def remember(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value:
            ctx.obj = replace(ctx.obj, as_json=True)

    return click.option(
        "--json", "json_", is_flag=True, expose_value=False, callback=remember, help="Results as JSON."
    )(command)


here_option = click.option(
    "--here", is_flag=True, help="Run it in this process, whether workers live or not."
)


def confirm_by_name(tenant: str, given: str | None, what: str) -> None:
    """Ask for the tenant's name before something is destroyed; `--yes NAME` answers for scripts. Raises `Declined`."""
    if given is None:
        click.echo(what, err=True)
        try:
            given = click.prompt("Type the tenant's id to go on", err=True, default="", show_default=False)
        except click.Abort:
            given = ""
    if given != tenant:
        raise Declined(
            f"the name given is not {tenant}: nothing was changed",
            hint=f"--yes {tenant} confirms it in scripts",
        )
