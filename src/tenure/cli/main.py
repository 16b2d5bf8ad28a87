"""`tenure`: the entry point. Puts the command groups together and turns errors into exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from tenure import __version__
from tenure.cli import (
    audit,
    backup,
    capacity,
    catalogue,
    certificate,
    demo,
    drift,
    erase,
    estate,
    move,
    op,
    restore,
    scheduler,
    soak,
    tenant,
    worker,
)
from tenure.cli.context import Context
from tenure.cli.exit_codes import EXIT_CODES, FAILED, INTERRUPTED, USAGE
from tenure.cli.output import show_error
from tenure.errors import TenureError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path, dir_okay=False),
    default=lambda: os.environ.get("TENURE_CONFIG", "tenure.yaml"),
    show_default="$TENURE_CONFIG or ./tenure.yaml",
    help="The estate's description.",
)
@click.option("--json", "as_json", is_flag=True, help="Results as JSON on stdout.")
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
@click.version_option(__version__, prog_name="tenure")
@click.pass_context
def tenure(ctx: click.Context, config: Path, as_json: bool, quiet: bool) -> None:
    """Move, verify and roll back one tenant of a multi-tenant SaaS, across every store that holds its data."""
    ctx.obj = Context(config=config, as_json=as_json, quiet=quiet)


for command in (
    demo.demo,
    estate.estate,
    tenant.tenant,
    move.migrate,
    move.rollback,
    move.complete,
    move.verify,
    soak.soak,
    backup.backup,
    restore.restore,
    erase.erase,
    certificate.certificate,
    move.watch,
    drift.drift,
    capacity.capacity,
    catalogue.catalogue,
    op.op,
    audit.audit,
    worker.worker,
    scheduler.scheduler,
):
    tenure.add_command(command)


def main() -> None:
    """Run the command line; exit with the code of the table in `exit_codes`."""
    as_json = "--json" in sys.argv[1:]
    try:
        code = tenure.main(standalone_mode=False)
    except TenureError as error:
        show_error(error, as_json=as_json)
        sys.exit(EXIT_CODES.get(error.code, FAILED))
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
