"""What is stored: ``aae accounts``, ``keys`` and ``db``."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from aae.cli import common
from aae.errors import UserError

accounts_app = typer.Typer(help="Connect ad accounts and see how they are.", no_args_is_help=True)
keys_app = typer.Typer(help="The keys that tokens are encrypted with.", no_args_is_help=True)
db_app = typer.Typer(help="The shared tables.", no_args_is_help=True)


# Accounts


@accounts_app.command("list")
def accounts_list(as_json: common.AsJson = False) -> None:
    """Every ad account: status, currency, time zone, how its token is, and up to when its numbers are in the tables."""
    from sqlalchemy import select  # noqa: PLC0415

    from aae.storage.accounts import list_users, token_overview  # noqa: PLC0415
    from aae.storage.engine import reading  # noqa: PLC0415
    from aae.storage.schema import ad_accounts  # noqa: PLC0415

    with reading(common.tables(common.settings())) as connection:
        rows = token_overview(connection)
        owners = {user.id: user.email for user in list_users(connection, active_only=False)}
        moments = connection.execute(select(ad_accounts.c.id, ad_accounts.c.data_through))
        through = {row.id: row.data_through for row in moments}
    now = common.now()
    listed = [
        {
            "id": row.account.id,
            "account": str(row.account),
            "name": row.account.name,
            "user": owners[row.account.user_id],
            "status": str(row.account.status),
            "status_reason": row.status_reason,
            "currency": row.account.currency,
            "timezone": row.account.timezone,
            "token": _token_state(row.expires_at, row.last_outcome, now),
            "token_expires_at": row.expires_at.isoformat() if row.expires_at else None,
            "data_through": moment.isoformat() if (moment := through.get(row.account.id)) else None,
        }
        for row in rows
    ]
    if as_json:
        typer.echo(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    for row in listed:
        row["data_through"] = str(row["data_through"] or "never")[:16].replace("T", " ")
    columns = ("id", "account", "name", "user", "status", "currency", "timezone", "token", "data_through")
    common.print_table(columns, listed)
    if not listed:
        common.out.print("There is none yet: [bold]aae accounts import --help[/]")


def _token_state(expires_at: datetime | None, last_outcome: str | None, now: datetime) -> str:
    if last_outcome == "permanent_failure":
        return "authorization expired"
    if expires_at is None:
        return "does not expire"
    hours = (expires_at - now).total_seconds() / 3600
    if hours <= 0:
        return "expired, to be refreshed"
    return f"expires in {hours:.0f} h" if hours < 48 else f"expires in {hours / 24:.0f} d"


@accounts_app.command("import")
def accounts_import(
    file: Annotated[str, typer.Argument(help="The list; - reads standard input.", metavar="FILE|-")],
) -> None:
    """Connect a list of ad accounts: a JSON array, JSON lines, or CSV.

    Fields: user_email, user_name, platform (meta, tiktok, google), external_id, access_token; and if you have them
    refresh_token, expires_at, login_customer_id, name, currency, timezone. Missing names, currencies and time zones are
    asked from the platform. Either all are stored or none; an account that is already there is connected anew.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text.") from None
    _connect(text, "standard input" if file == "-" else file)


@accounts_app.command("add")
def accounts_add(
    user_email: Annotated[str, typer.Option(prompt="User's e-mail", help="Who owns it.")],
    user_name: Annotated[str, typer.Option(prompt="User's name", help="How reports address them.")],
    platform: Annotated[str, typer.Option(prompt="Platform (meta, tiktok, google)", help="meta, tiktok or google.")],
    external_id: Annotated[str, typer.Option(prompt="The platform's account id", help="The platform's id for it.")],
    login_customer_id: Annotated[
        str | None, typer.Option(help="Google only: the manager account through which access goes.")
    ] = None,
) -> None:
    """Connect one ad account.

    Its tokens are never arguments, which other people on the machine could see: they are asked without echo, or come
    as JSON on standard input: {"access_token": "...", "refresh_token": "...", "expires_at": "2026-12-24T12:00:00Z"}
    """
    described = {
        "user_email": user_email,
        "user_name": user_name,
        "platform": platform,
        "external_id": external_id,
        "login_customer_id": login_customer_id,
    }
    _connect(json.dumps([described | _read_tokens()]), "the account")


def _read_tokens() -> dict[str, Any]:
    if sys.stdin.isatty():
        access = typer.prompt("Access token", hide_input=True)
        refresh = typer.prompt(
            "Refresh token (empty if there is none)", hide_input=True, default="", show_default=False
        )
        expires = typer.prompt("Expires at, like 2026-12-24T12:00:00Z (empty: never)", default="", show_default=False)
        return {"access_token": access, "refresh_token": refresh, "expires_at": expires}
    try:
        tokens = json.load(sys.stdin)
    except ValueError:
        tokens = None
    if not isinstance(tokens, dict) or not set(tokens) <= {"access_token", "refresh_token", "expires_at"}:
        raise UserError("Standard input must hold a JSON object of access_token, refresh_token and expires_at.")
    return tokens


def _connect(text: str, source: str) -> None:
    from aae.operate.account_files import read_accounts  # noqa: PLC0415
    from aae.operate.onboarding import connect_all, open_vault  # noqa: PLC0415

    rows = read_accounts(text, source)
    settings = common.settings()
    engine = common.tables(settings)
    vault = open_vault(settings, engine)
    done = connect_all(rows, source, settings=settings, engine=engine, vault=vault, clock=common.now)
    common.out.print(f"{done.new} accounts connected, {done.renewed} connected anew, {done.users} users.")


# Keys


@keys_app.command("rotate")
def keys_rotate() -> None:
    """Encrypt every stored token with the first key of AAE_ENCRYPTION_KEYS.

    To change keys: put a new one before the old one (new:...,old:...), restart whatever runs, run this, and then take
    the old one out. Either all tokens are encrypted anew or none; repeating it does no harm.
    """
    from aae.operate.onboarding import prove  # noqa: PLC0415
    from aae.storage.accounts import rotate_tokens  # noqa: PLC0415
    from aae.vault import Vault  # noqa: PLC0415

    settings = common.settings()
    engine = common.tables(settings)
    vault = Vault.from_settings(settings)
    prove(engine, vault)
    with engine.begin() as connection:
        rotated = rotate_tokens(connection, vault)
    common.out.print(f"{rotated} secrets were re-encrypted; all are sealed with the first key now.")


# Tables


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Create the tables, or bring them to this program's version. May be repeated, also by several at once."""
    from aae.storage import engine as database  # noqa: PLC0415

    engine = database.connect(common.settings().resolved_database_url)
    database.check(engine)
    applied = database.upgrade(engine)
    common.out.print(f"Applied: {', '.join(applied)}." if applied else f"Nothing to do: at {database.head()}.")


@db_app.command("current")
def db_current() -> None:
    """Say which version the tables are at, and which one this program needs; exit code 1 if they differ."""
    from aae.storage import engine as database  # noqa: PLC0415

    engine = database.connect(common.settings().resolved_database_url)
    database.check(engine)
    there, needed = database.current(engine), database.head()
    common.out.print(f"The tables are at {there or 'nothing yet'}; this program needs {needed}.")
    if there != needed:
        raise typer.Exit(1)


@db_app.command("grants")
def db_grants(
    user: Annotated[list[str] | None, typer.Option(help="Only this user; may be repeated.")] = None,
    database: Annotated[str, typer.Option(help="The database; if not given, the one of AAE_DATABASE_URL.")] = "",
    host: Annotated[str, typer.Option(help="Where the users come from; % is anywhere, and then only by TLS.")] = "%",
) -> None:
    """Print the SQL that makes one MySQL user per purpose with what it needs, to be run by an administrator.

    aae db grants | mysql -u root, after aae db upgrade has made the tables. The users come locked; the comments at the
    end say how to give each its password.
    """
    from sqlalchemy import make_url  # noqa: PLC0415

    from aae.storage import grants  # noqa: PLC0415

    name = database or make_url(common.settings().resolved_database_url).database or ""
    if not database and "/" in name:
        raise UserError("SQLite has no users; for a MySQL server name the database: aae db grants --database aae.")
    roles = grants.chosen(user or ())
    for role in roles:
        typer.echo(f"-- {role.name}: {role.purpose}")
        for statement in grants.statements(role, name, host):
            typer.echo(f"{statement};")
    typer.echo("-- Then give each its own password:")
    for role in roles:
        typer.echo(f"-- {grants.unlock(role, host)};")
