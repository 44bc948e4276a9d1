"""The command line of operators for API keys: ``flask --app app keys …``."""

import re
from datetime import UTC, datetime, timedelta

import click
from flask.cli import AppGroup

from user_service.database.stored_keys import add_key, all_keys, revoke_key
from user_service.domain.api_key import ApiKey, new_key
from user_service.web.cli import reported
from user_service.web.policies.access import SCOPES

# Names appear in logs, so they are no place for email addresses.
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_DAYS = re.compile(r"([1-9][0-9]{0,3})d")
_EXPIRY_HELP = "90d, 2027-12-31 (until that day begins, in UTC) or never."


def _name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not _NAME.fullmatch(value):
        raise click.BadParameter("must have up to 63 lower case letters, digits and hyphens")
    return value


def _scopes(_context: click.Context, _parameter: click.Parameter, value: str) -> frozenset[str]:
    scopes = frozenset(value.replace(",", " ").split())
    if not scopes or scopes - SCOPES.keys():
        raise click.BadParameter(f"must be some of {', '.join(SCOPES)}")
    return scopes


def _expiry(_context: click.Context, _parameter: click.Parameter, value: str) -> datetime | None:
    if value == "never":
        return None
    if days := _DAYS.fullmatch(value):
        return datetime.now(UTC) + timedelta(days=int(days[1]))
    try:
        expiry = datetime.fromisoformat(value)
        expiry = expiry.replace(tzinfo=expiry.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter("must be like 90d, 2027-12-31 or never") from None
    if expiry <= datetime.now(UTC):
        raise click.BadParameter("must be in the future")
    return expiry


def key_commands(dsn: str) -> AppGroup:
    """Return the commands that work on the keys in the database at ``dsn``."""
    keys = AppGroup("keys", help="Create, list and revoke API keys.")

    @keys.command("create")
    @click.argument("name", callback=_name)
    @click.option("--scopes", required=True, callback=_scopes, help=f"Some of {','.join(SCOPES)}.")
    @click.option("--expires", required=True, callback=_expiry, help=_EXPIRY_HELP)
    @reported()
    def create_key(name: str, scopes: frozenset[str], expires: datetime | None) -> None:
        """Create an API key and print it, this once: the service stores only a digest."""
        key, stored = new_key(name, scopes, expires)
        if not add_key(dsn, stored):
            raise click.ClickException(f"the key {name} exists; revoke it first")
        click.echo(key)

    @keys.command("list")
    @reported()
    def list_keys() -> None:
        """List all API keys, without their secrets."""
        for key in all_keys(dsn):
            click.echo("  ".join((key.name, key.prefix, ",".join(sorted(key.scopes)), *_use(key))))

    @keys.command("revoke")
    @click.argument("name")
    @reported()
    def revoke(name: str) -> None:
        """Revoke the API key of this name. It stops working within 5 seconds."""
        if not revoke_key(dsn, name):
            raise click.ClickException(f"there is no valid key {name}")
        click.echo(f"{name} is revoked")

    return keys


def _use(key: ApiKey) -> tuple[str, str]:
    state = "valid"
    if key.revoked_at is not None:
        state = f"revoked {key.revoked_at:%Y-%m-%d}"
    elif key.expires_at is not None:
        has_expired = key.expires_at <= datetime.now(UTC)
        state = f"{'expired' if has_expired else 'valid until'} {key.expires_at:%Y-%m-%d}"
    used = "never used" if key.last_used_on is None else f"last used {key.last_used_on}"
    return state, used
