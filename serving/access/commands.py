"""`homescope-server keys`."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, TypeVar

import click

from serving.access import redaction
from serving.access.grant import EVERYDAY, SCOPES, Grant, ImagePolicy, Quota, Scope
from serving.access.keys import AmbiguousKey, ApiKey, KeyStore, utc_now
from serving.console import give_up, read_settings, table, with_database
from serving.media.images import FORMATS
from serving.settings import Settings

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
SPAN = re.compile(r"(\d{1,6})([mhdw])")
HOST = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.IGNORECASE)
POSITIVE = click.IntRange(min=1)
NEVER = "-"


@click.group()
def keys() -> None:
    """API keys."""


def _grant_options(command: F) -> F:
    """What a key may do, as options."""
    for option in reversed(
        (
            click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="default: all but admin"),
            click.option("--model", "models", multiple=True, help="model name that it may ask for; default: all"),
            click.option("--rpm", type=POSITIVE, help="requests per minute"),
            click.option("--tpm", type=POSITIVE, help="tokens per minute, of questions and answers"),
            click.option("--ipm", type=POSITIVE, help="images per minute"),
            click.option("--concurrency", type=POSITIVE, help="requests at a time"),
            click.option("--max-images", type=click.IntRange(min=0), help="images in one request"),
            click.option("--max-image-bytes", type=POSITIVE, help="bytes of one image"),
            click.option("--max-image-pixels", type=POSITIVE, help="largest image, width times height"),
            click.option("--image-format", "formats", multiple=True, type=click.Choice(FORMATS, case_sensitive=False)),
            click.option("--image-host", "hosts", multiple=True, help="fetch URLs of this host alone; *.name too"),
            click.option("--video/--no-video", default=True, help="whether it may send videos"),
            click.option("--no-content", is_flag=True, help="keep neither its questions nor its answers nor images"),
            click.option(
                "--redact",
                multiple=True,
                help=f"black out in what is kept: {', '.join(redaction.NAMED)}, or a regular expression",
            ),
        )
    ):
        command = option(command)
    return command


@keys.command()
@click.option("--name", required=True, help="whose key it is; appears in the log line of each request")
@click.option("--expires", help="when it ends: 90d, 12h, or a UTC date like 2027-01-31")
@_grant_options
def create(name: str, expires: str | None, **chosen: Any) -> None:
    """Print a new key, once."""
    if not name.isprintable() or not 0 < len(name) <= 200:
        give_up("a key's name is 1 to 200 printable characters")
    settings = read_settings()
    grant = _grant(settings, **chosen)
    until = None if expires is None else _moment(expires, utc_now())
    click.echo(_with_keys(settings, lambda store: store.create(name, grant, expires_at=until)))


@keys.command("list")
def list_keys() -> None:
    """Show every key: how to recognise it, whether it is active, and what it may do."""
    found = _with_keys(read_settings(), lambda store: store.all())
    rows = [_row(key, utc_now()) for key in found]
    click.echo(table(("ID", "PREFIX", "CREATED", "EXPIRES", "STATE", "NAME", "MAY"), rows))


@keys.command()
@click.argument("id_or_prefix")
def revoke(id_or_prefix: str) -> None:
    """Revoke the key with this id or prefix; a running server follows within seconds."""
    revoked = _with_keys(read_settings(), lambda store: store.revoke(id_or_prefix.removesuffix("...")))
    if not revoked:
        _no_such_key(id_or_prefix)
    for key in revoked:
        click.echo(f"revoked {key.id} ({key.name})")


@keys.command()
@click.argument("id_or_prefix")
@click.option("--grace", default="0m", show_default=True, help="how long the old secret still works: 24h, 7d")
def rotate(id_or_prefix: str, grace: str) -> None:
    """Print a new secret for the key with this id or prefix. Its id, rights, files and tasks stay."""
    span = span_of(grace)
    if span is None:
        give_up(f"--grace {grace} is no span of time; write one like 30m, 24h or 7d")
    issued = _with_keys(read_settings(), lambda store: store.rotate(id_or_prefix.removesuffix("..."), span))
    if issued is None:
        _no_such_key(id_or_prefix)
    click.echo(issued.secret)


def _with_keys(settings: Settings, use: Callable[[KeyStore], Coroutine[Any, Any, T]]) -> T:
    try:
        return with_database(settings, lambda engine: use(KeyStore(engine)))
    except AmbiguousKey as error:
        give_up(f"several active keys have this prefix; name one by its id: {', '.join(error.ids)}")


async def first_key(store: KeyStore) -> str | None:
    """A key if there has never been one."""
    return None if await store.all() else await store.create("first")


def make_first_key(settings: Settings) -> str | None:
    return _with_keys(settings, first_key)


def _no_such_key(id_or_prefix: str) -> NoReturn:
    give_up(f"no active key has the id or prefix {id_or_prefix}; `homescope-server keys list` shows them")


def _grant(
    settings: Settings,
    *,
    scopes: tuple[Scope, ...],
    models: tuple[str, ...],
    redact: tuple[str, ...],
    no_content: bool,
    **rest: Any,
) -> Grant:
    for model in models:
        if model not in settings.served_models:
            give_up(f"--model {model} is none of the served models: {', '.join(settings.served_models)}")
    for pattern in redact:
        try:
            redaction.compiled(pattern)
        except ValueError as error:
            give_up(f"--redact {pattern} is none of {', '.join(redaction.NAMED)} and no regular expression: {error}")
    return Grant(
        scopes=frozenset(scopes) or EVERYDAY,
        models=models,
        quota=Quota(rest["rpm"], rest["tpm"], rest["ipm"], rest["concurrency"]),
        images=_image_policy(rest),
        keep_content=not no_content,
        redact=redact,
    )


def _image_policy(chosen: dict[str, Any]) -> ImagePolicy:
    for host in chosen["hosts"]:
        if not HOST.fullmatch(host):
            give_up(f"--image-host {host} is no host name; write one like images.example.com or *.example.com")
    return ImagePolicy(
        count=chosen["max_images"],
        bytes=chosen["max_image_bytes"],
        pixels=chosen["max_image_pixels"],
        formats=tuple(name.upper() for name in chosen["formats"]),
        video=chosen["video"],
        hosts=tuple(host.lower() for host in chosen["hosts"]),
    )


def span_of(text: str) -> timedelta | None:
    found = SPAN.fullmatch(text)
    return None if found is None else timedelta(**{UNITS[found[2]]: int(found[1])})


def _moment(text: str, now: datetime) -> datetime:
    """UTC without a zone."""
    span = span_of(text)
    try:
        at = now + span if span is not None else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        give_up(f"--expires {text} is neither a span of time like 90d nor a date like 2027-01-31")
    at = at if at.tzinfo is None else at.astimezone(UTC).replace(tzinfo=None)
    if at <= now:
        give_up(f"--expires {text} is in the past")
    return at


def _row(key: ApiKey, now: datetime) -> tuple[str, ...]:
    expires = NEVER if key.expires_at is None else _shown(key.expires_at)
    return (key.id, key.prefix + "...", _shown(key.created_at), expires, _state(key, now), key.name, _may(key.grant))


def _shown(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


def _state(key: ApiKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return f"revoked {_shown(key.revoked_at)}"
    return "active" if key.active(now) else "expired"


def _may(grant: Grant) -> str:
    """What differs from an ordinary key, in the words of the options."""
    quota, images = grant.quota, grant.images
    said: dict[str, object] = {
        "scope": "" if grant.scopes == EVERYDAY else ",".join(sorted(grant.scopes)),
        "model": ",".join(grant.models),
        "rpm": quota.rpm,
        "tpm": quota.tpm,
        "ipm": quota.ipm,
        "concurrency": quota.concurrency,
        "max-images": images.count,
        "max-image-bytes": images.bytes,
        "max-image-pixels": images.pixels,
        "image-format": ",".join(images.formats),
        "image-host": ",".join(images.hosts),
        "redact": ",".join(grant.redact),
    }
    words = [f"{name}={value}" for name, value in said.items() if value not in (None, "")]
    words += [] if images.video else ["no-video"]
    words += [] if grant.keep_content else ["no-content"]
    return " ".join(words) or "everything but admin"
