"""Users, their ad accounts, and the tokens that authorize us there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import SecretStr
from sqlalchemy import ColumnElement, Connection, Row, and_, func, insert, or_, select, update

from aae.errors import UserError
from aae.model import Account, AccountStatus, Platform, Token
from aae.storage import fetches
from aae.storage.bulk import add_once, fit
from aae.storage.schema import ad_accounts, token_refreshes, users
from aae.vault import Vault

_ACCOUNT_COLUMNS: Final = [ad_accounts.c[name] for name in Account.__dataclass_fields__]
_TOKEN_COLUMNS: Final = ("access_token", "refresh_token")


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with ad accounts. ``preferences`` is ``{"mute": [kinds not wanted by e-mail]}``."""

    id: int
    email: str
    name: str
    active: bool
    preferences: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenRow:
    """How one account's authorization stands; moments are aware UTC. No secrets.

    ``last_outcome`` and ``last_checked_at`` are the newest entry of the refresh log, ``refreshable`` whether a refresh
    token is stored.
    """

    account: Account
    status_reason: str | None
    expires_at: datetime | None
    version: int
    refreshable: bool
    last_outcome: str | None
    last_checked_at: datetime | None


DOUBTED: Final = "access_doubted"
REFUSED: Final = "access_refused"
"""In the log of tokens: the token is good, but its platform did not give the account to it in a run, and does not any
more (the account is paused and its owner told)."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What an account's owner was told last about why it cannot be read: ``permanent_failure`` or ``REFUSED``."""

    id: int
    outcome: str
    token_version: int


def add_user(connection: Connection, *, email: str, name: str, now: datetime) -> int:
    """The id of the user with this e-mail address (compared in lower case), new or renamed.

    Raises:
        UserError: the database takes the address for another user's: MySQL's collations ignore accents and widths.
    """
    email, name = email.strip().lower(), fit(name, 200)
    values = {"email": email, "name": name, "active": True, "preferences": {}, "created_at": now}
    new = add_once(connection, users, values, users.c.email == email)
    if new is not None:
        return new
    known = connection.execute(select(users.c.id, users.c.email).where(users.c.email == email)).one()
    if known.email != email:
        raise UserError(
            f"{email} differs from another user's address by an accent or the like only; write it as it is."
        )
    connection.execute(update(users).where(users.c.id == known.id).values(name=name))
    return int(known.id)


def list_users(connection: Connection, ids: Collection[int] | None = None, active_only: bool = True) -> list[User]:
    """Users in the order of their ids: all of them, or those of ``ids``."""
    query = select(users.c.id, users.c.email, users.c.name, users.c.active, users.c.preferences).order_by(users.c.id)
    if ids is not None:
        query = query.where(users.c.id.in_(ids))
    if active_only:
        query = query.where(users.c.active)
    return [User(**row._mapping) for row in connection.execute(query)]


def connect_account(
    connection: Connection,
    vault: Vault,
    *,
    user_id: int,
    platform: Platform,
    external_id: str,
    name: str,
    currency: str,
    timezone: str,
    login_customer_id: str | None,
    access_token: SecretStr,
    refresh_token: SecretStr | None,
    expires_at: datetime | None,
    now: datetime,
) -> tuple[int, bool]:
    """Store an authorized account; returns its id and whether it is new.

    Connecting an account again replaces its description and tokens and makes it active, whatever it was. In another
    time zone than before, all of its days are owed again.

    Raises:
        UserError: ``timezone`` is not an IANA name; or the account's stored amounts are in another currency.
    """
    _require_zone(timezone)
    described = {
        "name": fit(name, 400),
        "currency": currency.upper(),
        "timezone": timezone,
        "login_customer_id": login_customer_id,
        "status": AccountStatus.ACTIVE.value,
        "status_reason": None,
        "token_expires_at": expires_at,
        "updated_at": now,
    }
    identity = {"user_id": user_id, "platform": platform.value, "external_id": external_id}
    fresh = {"token_version": 0, "data_version": 0, "detected_version": 0, "created_at": now}
    key = and_(*(ad_accounts.c[column] == value for column, value in identity.items()))
    columns = [ad_accounts.c[name] for name in ("id", "currency", "timezone", "data_version")]
    before = connection.execute(select(*columns).where(key).with_for_update()).one_or_none()
    if before is not None and before.data_version and before.currency != currency.upper():
        raise UserError(
            f"{platform}:{external_id} is kept in {before.currency}: to call it {currency.upper()} would relabel the "
            "amounts that are stored. No platform changes the currency of an account; correct the list."
        )
    if before is not None and before.timezone != timezone:
        fetches.record_new_zone(connection, before.id, before.timezone, timezone, now=now)
    new = add_once(connection, ad_accounts, identity | described | fresh, key)
    account_id = new or int(connection.scalars(select(ad_accounts.c.id).where(key)).one())
    # The id is part of what binds a token to its row, so the tokens come second.
    connection.execute(
        update(ad_accounts)
        .where(ad_accounts.c.id == account_id)
        .values(
            **described,
            **_sealed(vault, account_id, access_token, refresh_token),
            token_version=ad_accounts.c.token_version + 1,
        )
    )
    return account_id, new is not None


def redescribe(
    connection: Connection, account: Account, *, name: str, timezone: str, login_customer_id: str | None, now: datetime
) -> Account:
    """Store what the platform says of the account today; in another time zone all of its days are owed again."""
    changed = replace(
        account, name=fit(name, 400) or account.name, timezone=timezone, login_customer_id=login_customer_id
    )
    if changed == account:
        return account
    _require_zone(timezone)
    stored = connection.scalars(
        select(ad_accounts.c.timezone).where(ad_accounts.c.id == account.id).with_for_update()
    ).one()
    if stored != timezone:  # else this has happened already, and nobody was told
        fetches.record_new_zone(connection, account.id, stored, timezone, now=now)
    connection.execute(
        update(ad_accounts)
        .where(ad_accounts.c.id == account.id)
        .values(name=changed.name, timezone=timezone, login_customer_id=login_customer_id, updated_at=now)
    )
    return changed


def list_accounts(
    connection: Connection,
    *,
    ids: Collection[int] | None = None,
    platforms: Collection[Platform] | None = None,
    user_ids: Collection[int] | None = None,
    statuses: Collection[AccountStatus | str] | None = ("active",),
) -> list[Account]:
    """Accounts in the order of their ids; every filter given must hold, ``None`` lets all pass."""
    query = select(*_ACCOUNT_COLUMNS).order_by(ad_accounts.c.id)
    filters = ((ad_accounts.c.id, ids), (ad_accounts.c.user_id, user_ids))
    for column, wanted in filters:
        if wanted is not None:
            query = query.where(column.in_(wanted))
    if platforms is not None:
        query = query.where(ad_accounts.c.platform.in_([platform.value for platform in platforms]))
    if statuses is not None:
        query = query.where(ad_accounts.c.status.in_([str(status) for status in statuses]))
    return [_account(row) for row in connection.execute(query)]


def find_accounts(connection: Connection, reference: str) -> list[Account]:
    """The accounts a person means, of any status: ``"17"`` (our id), ``"meta:1001"``, or the platform's id.

    Several, when several users have connected the same one. Google's hyphens and Meta's ``act_`` may be left in.

    Raises:
        UserError: there is none.
    """
    platform, colon, external_id = reference.strip().rpartition(":")
    external_id = external_id.removeprefix("act_").replace("-", "")
    matches = ad_accounts.c.external_id == external_id
    if colon:
        matches &= ad_accounts.c.platform == platform.lower()
    elif reference.strip().isascii() and reference.strip().isdecimal() and len(reference.strip()) < 19:
        matches = or_(matches, ad_accounts.c.id == int(reference))
    found = [
        _account(row) for row in connection.execute(select(*_ACCOUNT_COLUMNS).where(matches).order_by(ad_accounts.c.id))
    ]
    if not found:
        raise UserError(f"There is no account {reference!r}: see aae accounts for those there are.")
    own = [account for account in found if not colon and str(account.id) == reference.strip()]
    return own or found


def read_token(connection: Connection, vault: Vault, account_id: int) -> Token:
    """The account's token, decrypted.

    Raises:
        UserError: there is no such account, it has no token, or the vault cannot open it.
    """
    row = connection.execute(
        select(
            ad_accounts.c.access_token,
            ad_accounts.c.refresh_token,
            ad_accounts.c.token_expires_at,
            ad_accounts.c.token_version,
        ).where(ad_accounts.c.id == account_id)
    ).one_or_none()
    if row is None or row.access_token is None:
        raise UserError(f"Account {account_id} has no token: connect it again.")
    refresh = row.refresh_token
    return Token(
        access=vault.decrypt(row.access_token, _place(account_id, "access_token")),
        refresh=None if refresh is None else vault.decrypt(refresh, _place(account_id, "refresh_token")),
        expires_at=row.token_expires_at,
        version=row.token_version,
    )


def replace_token(
    connection: Connection, vault: Vault, account_id: int, token: Token, *, expected_version: int, now: datetime
) -> bool:
    """Store a refreshed token unless somebody else has stored one since ``expected_version`` was read.

    ``token.version`` is ignored: the stored version moves by one. False means the race was lost and nothing is changed.
    """
    changed = connection.execute(
        update(ad_accounts)
        .where(ad_accounts.c.id == account_id, ad_accounts.c.token_version == expected_version)
        .values(
            **_sealed(vault, account_id, token.access, token.refresh),
            token_expires_at=token.expires_at,
            token_version=expected_version + 1,
            updated_at=now,
        )
    )
    return changed.rowcount == 1


def rotate_tokens(connection: Connection, vault: Vault) -> int:
    """Seal every token anew that another key than the vault's first one sealed; returns how many.

    ``token_version`` stays: the tokens are the same. The rows are locked, so no refresh is overwritten.
    """
    query = select(ad_accounts.c.id, *(ad_accounts.c[name] for name in _TOKEN_COLUMNS)).with_for_update()
    rotated = 0
    for row in connection.execute(query).all():
        stale = {
            name: vault.rotate(sealed, _place(row.id, name))
            for name in _TOKEN_COLUMNS
            if (sealed := row._mapping[name]) is not None and vault.needs_rotation(sealed)
        }
        if stale:
            connection.execute(update(ad_accounts).where(ad_accounts.c.id == row.id).values(**stale))
            rotated += len(stale)
    return rotated


def set_status(
    connection: Connection, account_id: int, status: AccountStatus, reason: str | None, *, now: datetime
) -> bool:
    """Give the account a status; True if it had another one. Of several callers at once one gets True."""
    changed = connection.execute(
        update(ad_accounts)
        .where(ad_accounts.c.id == account_id, ad_accounts.c.status != status.value)
        .values(status=status.value, status_reason=reason and fit(reason, 500), updated_at=now)
    )
    return changed.rowcount == 1


def pause_dead(
    connection: Connection,
    account_id: int,
    status: AccountStatus,
    reason: str,
    *,
    token_version: int,
    now: datetime,
) -> bool:
    """Pause the account whose token of this version is dead; False if that token has been replaced meanwhile.

    An account that its operator has paused stays so.
    """
    return _set_status_if(connection, account_id, token_version, _not_by_hand, status=status, reason=reason, now=now)


def pause_refused(connection: Connection, account_id: int, reason: str, *, token_version: int, now: datetime) -> bool:
    """Pause an active account that is refused to its token of this version; False if it is not, or has another one."""
    active = ad_accounts.c.status == AccountStatus.ACTIVE.value
    revoked = AccountStatus.REVOKED
    return _set_status_if(connection, account_id, token_version, active, status=revoked, reason=reason, now=now)


def resume(connection: Connection, account_id: int, *, token_version: int, now: datetime) -> bool:
    """Let the account work again with its token of this version; False if that is no longer its token."""
    active = AccountStatus.ACTIVE
    return _set_status_if(connection, account_id, token_version, _not_by_hand, status=active, reason=None, now=now)


_not_by_hand: Final = ad_accounts.c.status != AccountStatus.PAUSED.value


def _set_status_if(
    connection: Connection,
    account_id: int,
    token_version: int,
    condition: ColumnElement[bool],
    *,
    status: AccountStatus,
    reason: str | None,
    now: datetime,
) -> bool:
    changed = connection.execute(
        update(ad_accounts)
        .where(
            ad_accounts.c.id == account_id,
            ad_accounts.c.token_version == token_version,
            condition,
        )
        .values(status=status.value, status_reason=reason and fit(reason, 500), updated_at=now)
    )
    return changed.rowcount == 1


def log_refresh(
    connection: Connection,
    *,
    account_id: int,
    at: datetime,
    outcome: str,
    token_version: int,
    expires_at: datetime | None = None,
    error_code: str | None = None,
    detail: str | None = None,
    run_id: str | None = None,
) -> None:
    """Add to the refresh log, once; the outcomes are listed at ``token_refreshes`` in the schema. No secrets."""
    if is_logged(connection, account_id, at=at, outcome=outcome, token_version=token_version, run_id=run_id):
        return
    connection.execute(
        insert(token_refreshes).values(
            account_id=account_id,
            at=at,
            outcome=outcome,
            token_version=token_version,
            expires_at=expires_at,
            error_code=error_code and fit(error_code, 64),
            detail=detail and fit(detail, 500),
            run_id=run_id,
        )
    )


def is_logged(
    connection: Connection, account_id: int, *, at: datetime, outcome: str, token_version: int, run_id: str | None
) -> bool:
    """Whether this is in the refresh log: a transaction that is made again may have happened already."""
    same = select(token_refreshes.c.id).where(
        token_refreshes.c.account_id == account_id,
        token_refreshes.c.at == at,
        token_refreshes.c.outcome == outcome,
        token_refreshes.c.token_version == token_version,
        token_refreshes.c.run_id.is_not_distinct_from(run_id),
    )
    return connection.execute(same.limit(1)).first() is not None


_LOSSES: Final = ("permanent_failure", REFUSED, "recovered")


def _newest_loss() -> ColumnElement[str]:
    """The outcome of an account's newest loss or recovery; "" if there was none."""
    one = token_refreshes.alias("loss")
    newest = (
        select(func.max(one.c.id)).where(one.c.account_id == ad_accounts.c.id, one.c.outcome.in_(_LOSSES))
    ).correlate(ad_accounts)
    outcome = select(token_refreshes.c.outcome).where(token_refreshes.c.id == newest.scalar_subquery())
    return func.coalesce(outcome.correlate(ad_accounts).scalar_subquery(), "")


def last_loss(connection: Connection, account_id: int) -> Loss | None:
    """What the owner was told of, unless they have been told of the recovery since."""
    row = connection.execute(
        select(token_refreshes.c.id, token_refreshes.c.outcome, token_refreshes.c.token_version)
        .where(
            token_refreshes.c.account_id == account_id,
            token_refreshes.c.outcome.in_(_LOSSES),
        )
        .order_by(token_refreshes.c.id.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None or row.outcome == "recovered" else Loss(**row._mapping)


def refused_since(connection: Connection, account_id: int) -> datetime | None:
    """The moment of the first run that got nothing but refusals, if nothing was stored and it was not well since."""
    own = token_refreshes.c.account_id == account_id
    recovered = select(func.max(token_refreshes.c.at)).where(own, token_refreshes.c.outcome == "recovered")
    well = (connection.scalar(recovered), fetches.last_stored_at(connection, account_id))
    good = [moment for moment in well if moment is not None]
    doubted = select(func.min(token_refreshes.c.at)).where(own, token_refreshes.c.outcome == DOUBTED)
    since: datetime | None = connection.scalar(doubted.where(token_refreshes.c.at > max(good)) if good else doubted)
    return since


def accounts_to_check(
    connection: Connection,
    *,
    ids: Collection[int] | None = None,
    user_ids: Collection[int] | None = None,
    refused: bool = True,
) -> list[Account]:
    """Active accounts, and paused ones whose token was good or has been replaced since it was found dead.

    ``refused``: also those that are refused to a good token, which only a check of the token can bring back.
    """
    failed = (
        select(func.max(token_refreshes.c.token_version))
        .where(
            token_refreshes.c.account_id == ad_accounts.c.id,
            token_refreshes.c.outcome == "permanent_failure",
        )
        .correlate(ad_accounts)
        .scalar_subquery()
    )
    dead = (AccountStatus.EXPIRED.value, AccountStatus.REVOKED.value)
    worth = (ad_accounts.c.status == AccountStatus.ACTIVE.value) | (
        ad_accounts.c.status.in_(dead) & (ad_accounts.c.token_version > func.coalesce(failed, -1))
    )
    query = select(*_ACCOUNT_COLUMNS).where(worth).order_by(ad_accounts.c.id)
    if not refused:
        query = query.where((ad_accounts.c.status == AccountStatus.ACTIVE.value) | (_newest_loss() != REFUSED))
    for column, wanted in ((ad_accounts.c.id, ids), (ad_accounts.c.user_id, user_ids)):
        if wanted is not None:
            query = query.where(column.in_(wanted))
    return [_account(row) for row in connection.execute(query)]


def token_overview(connection: Connection) -> list[TokenRow]:
    """Every account's authorization, in the order of their ids."""
    ended = token_refreshes.c.outcome != "checking"
    newest = select(func.max(token_refreshes.c.id)).where(ended).group_by(token_refreshes.c.account_id)
    log = select(token_refreshes).where(token_refreshes.c.id.in_(newest)).subquery()
    query = (
        select(
            *_ACCOUNT_COLUMNS,
            ad_accounts.c.status_reason,
            ad_accounts.c.token_expires_at,
            ad_accounts.c.token_version,
            ad_accounts.c.refresh_token.is_not(None).label("refreshable"),
            log.c.outcome,
            log.c.at,
        )
        .join_from(ad_accounts, log, log.c.account_id == ad_accounts.c.id, isouter=True)
        .order_by(ad_accounts.c.id)
    )
    return [
        TokenRow(
            account=_account(row),
            status_reason=row.status_reason,
            expires_at=row.token_expires_at,
            version=row.token_version,
            refreshable=bool(row.refreshable),
            last_outcome=row.outcome,
            last_checked_at=row.at,
        )
        for row in connection.execute(query)
    ]


def bump_data_version(connection: Connection, account_id: int, *, through: datetime | None, now: datetime) -> int:
    """Say that the account has new numbers; returns the new version.

    ``through``: the moment up to which they are complete now; never moved back, and ``None`` (old days fetched again)
    leaves it.
    """
    row = connection.execute(
        select(ad_accounts.c.data_version, ad_accounts.c.data_through)
        .where(ad_accounts.c.id == account_id)
        .with_for_update()
    ).one()
    version = int(row.data_version) + 1
    known = [moment for moment in (row.data_through, through) if moment is not None]
    connection.execute(
        update(ad_accounts)
        .where(ad_accounts.c.id == account_id)
        .values(data_version=version, data_through=max(known, default=None), updated_at=now)
    )
    return version


def set_detected_version(connection: Connection, account_id: int, version: int) -> None:
    """Say that detection has seen the account's numbers up to ``version``; never moves back."""
    connection.execute(
        update(ad_accounts)
        .where(ad_accounts.c.id == account_id, ad_accounts.c.detected_version < version)
        .values(detected_version=version)
    )


def data_versions(connection: Connection, *, user_id: int | None = None) -> dict[int, tuple[int, int]]:
    """Account id to (data version, the version detection has seen): of every account, or of one user's."""
    query = select(ad_accounts.c.id, ad_accounts.c.data_version, ad_accounts.c.detected_version)
    if user_id is not None:
        query = query.where(ad_accounts.c.user_id == user_id)
    return {account_id: (data, detected) for account_id, data, detected in connection.execute(query)}


def data_through(connection: Connection, *, user_id: int | None = None) -> dict[int, datetime | None]:
    """Account id to the moment up to which its numbers are complete, None if they never were; filtered the same."""
    query = select(ad_accounts.c.id, ad_accounts.c.data_through)
    if user_id is not None:
        query = query.where(ad_accounts.c.user_id == user_id)
    return {row.id: row.data_through for row in connection.execute(query)}


def _account(row: Row[Any]) -> Account:
    values = {name: row._mapping[name] for name in Account.__dataclass_fields__}
    return Account(**values | {"platform": Platform(row.platform), "status": AccountStatus(row.status)})


def _place(account_id: int, column: str) -> str:
    return f"ad_accounts:{account_id}:{column}"


def _sealed(vault: Vault, account_id: int, access: SecretStr, refresh: SecretStr | None) -> dict[str, bytes | None]:
    secrets: Sequence[SecretStr | None] = (access, refresh)
    return {
        column: None if secret is None else vault.encrypt(secret, _place(account_id, column))
        for column, secret in zip(_TOKEN_COLUMNS, secrets, strict=True)
    }


def _require_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UserError(f"{name!r} is not the name of a time zone: use one like Europe/Berlin.") from None
