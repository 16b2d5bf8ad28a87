"""`tenure certificate`: what was certified about erasures, and whether a certificate can be believed."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import click

from tenure.backups.signing import Trust, name_of, public_key
from tenure.certificates.envelope import unseal
from tenure.certificates.words import told
from tenure.cli.context import Context, json_option, pass_context
from tenure.cli.exit_codes import EXIT_CODES
from tenure.cli.output import emit_json, show_error
from tenure.errors import CertificateUntrusted, UsageError


@click.group()
def certificate() -> None:
    """Show, check and revoke certificates of erasure."""


@certificate.command("show")
@click.argument("certificate_", metavar="CERTIFICATE")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the signed envelope into this file, which must not exist yet.",
)
@click.option(
    "--pdf",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write it for people to read, as a PDF, into this file, which must not exist yet.",
)
@json_option
@pass_context
def show(context: Context, certificate_: str, out: Path | None, pdf: Path | None) -> None:
    """What a certificate says, in words; the newest one where CERTIFICATE is the reference of a request."""
    with context.service() as service:
        issued, contents = service.erasures.certificate(certificate_)
        name, public = service.erasures.public_key()
    if out is not None:
        _write(out, f"{issued.envelope}\n".encode())
    if pdf is not None:
        from tenure.certificates.pdf import rendered  # takes longer to load than most commands to run

        _write(pdf, rendered(contents, sha256=issued.sha256, key=name, revoked=issued.revoked))
    key = base64.b64encode(public).decode()
    steps = [f"tenure certificate verify {out} --key {key}"] if out is not None else []
    if context.as_json:
        value = {
            "certificate": contents,
            "envelope": issued.envelope,
            "sha256": issued.sha256,
            "revoked": issued.revoked,
            "key": {"name": name, "public": key},
        }
        emit_json("certificate", value, steps)
        return
    if issued.revoked:
        click.echo(f"REVOKED: {issued.revoked}\n")
    for line in told(contents):
        click.echo(line)
    for step in steps:
        click.echo(f"next: {step}")


@certificate.command("verify")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--key",
    "keys",
    multiple=True,
    required=True,
    metavar="KEY",
    help="A public key that you trust: base64, or a file with it; may be repeated.",
)
@json_option
@pass_context
def verify(context: Context, file: Path, keys: tuple[str, ...]) -> None:
    """Whether these are the very bytes that were signed. Needs the file and the public key, and nothing else: no
    tenure.yaml, no network. That a certificate was revoked, only whoever issued it knows."""
    trust = Trust([public_key(_text(key), "--key") for key in keys])
    try:
        contents = unseal(file.read_text("utf-8").rstrip("\n"), trust)
    except UnicodeDecodeError:
        problem = CertificateUntrusted(f"{file} is no text", hint="give the file that was handed over")
    except CertificateUntrusted as error:
        problem = error
    else:
        if context.as_json:
            emit_json("certificate_verification", {"genuine": True, "certificate": contents})
        else:
            click.echo(f"genuine: signed by {', '.join(trust.names)}\n")
            for line in told(contents):
                click.echo(line)
        return
    if context.as_json:
        emit_json("certificate_verification", {"genuine": False, "because": problem.message})
    show_error(problem, as_json=False)
    sys.exit(EXIT_CODES[problem.code])


@certificate.command("revoke")
@click.argument("certificate_", metavar="CERTIFICATE")
@click.option("--because", required=True, metavar="TEXT", help="Why it counts no more. No person's name.")
@json_option
@pass_context
def revoke(context: Context, certificate_: str, because: str) -> None:
    """Note that a certificate counts no more. It stays in the log, and `show` says so."""
    with context.service() as service:
        issued = service.erasures.revoke(certificate_, because)
    if context.as_json:
        emit_json("certificate_revocation", {"certificate": issued.id, "because": issued.revoked})
    else:
        click.echo(f"{issued.id} counts no more: {issued.revoked}")


@certificate.command("key")
@json_option
@pass_context
def key_(context: Context) -> None:
    """The public key that checks this estate's certificates and backups. Hand it over by another way than the file."""
    with context.service() as service:
        name, public = service.erasures.public_key()
    text = base64.b64encode(public).decode()
    if context.as_json:
        emit_json("public_key", {"name": name, "public": text})
    else:
        click.echo(text)
        click.echo(f"its name in signatures is {name_of(public)}", err=True)


def _text(key: str) -> str:
    path = Path(key)
    try:
        if path.is_file():
            return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{key[:80]!r} is no file with a public key") from error
    return key


def _write(out: Path, contents: bytes) -> None:
    try:
        with out.open("xb") as file:
            file.write(contents)
    except FileExistsError as error:
        raise UsageError(f"{out} exists already", hint="give a name that is free") from error
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}", hint="give another one") from error
