"""Mail through a real SMTP server on loopback, and the outbox on real databases: once, in order, nothing lost."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope
from pydantic import SecretStr
from sqlalchemy import Engine, insert, select

from aae.errors import Retry, Skip, UserError
from aae.notify import outbox
from aae.notify.email import Mail, SmtpSender, compose
from aae.notify.outbox import LEASE_SECONDS, Delivered, deliver_pending
from aae.settings import EmailSettings, Settings
from aae.storage import notifications, reports
from aae.storage.schema import notifications as table
from aae.storage.schema import users
from tests.certificate import self_signed

NOW = datetime(2026, 3, 11, 9, 0, tzinfo=UTC)


@dataclass
class Inbox:
    """A mail server's handler: keeps what it is given, refuses what it is told to refuse."""

    kept: list[EmailMessage] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Envelope, address: str, _options: Any) -> str:  # noqa: N802
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        self.kept.append(message_from_bytes(envelope.content, policy=policy.default))  # type: ignore[arg-type]
        return "250 kept"

    @property
    def recipients(self) -> list[str]:
        return [message["To"].addresses[0].addr_spec for message in self.kept]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 signed by itself, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def plain_port(inbox: Inbox) -> Iterator[int]:
    """A server without TLS."""
    controller = Controller(inbox, hostname="127.0.0.1", port=_free_port())
    yield from _serve(controller)


@pytest.fixture
def tls_port(inbox: Inbox, certificate: tuple[Path, Path]) -> Iterator[int]:
    """A server that insists on STARTTLS and on the password ``pa:ss@word`` of ``ada``."""

    def check(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"ada", b"pa:ss@word"), handled=False)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    yield from _serve(
        Controller(
            inbox,
            hostname="127.0.0.1",
            port=_free_port(),
            tls_context=context,
            require_starttls=True,
            auth_required=True,
            authenticator=check,
        )
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(controller: Controller) -> Iterator[int]:
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


def mail(address: str = "ada@example.com", key: str = "k") -> EmailMessage:
    made = Mail(
        address=address,
        user_name="Ada",
        urgent=False,
        title="Title €",
        message="Text.",
        data={},
        dedupe_key=key,
        at=NOW,
    )
    return compose(made, sender="AAE <r@aae.example>", public_url="https://app.example.com")


def trusting(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[0]))


# --- the server ---------------------------------------------------------------------------------------------------


def test_a_mail_arrives_over_starttls_with_a_password(
    tls_port: int, inbox: Inbox, certificate: tuple[Path, Path]
) -> None:
    url = f"smtp://ada:pa%3Ass%40word@127.0.0.1:{tls_port}"
    with SmtpSender(url, context=trusting(certificate)) as sender:
        sender.send(mail())
        sender.send(mail(key="second"))
    assert [message["Subject"] for message in inbox.kept] == ["Title €", "Title €"]
    assert len({message["Message-ID"] for message in inbox.kept}) == 2


def test_a_certificate_that_nobody_vouches_for_is_refused(tls_port: int, inbox: Inbox) -> None:
    with SmtpSender(f"smtp://ada:pa%3Ass%40word@127.0.0.1:{tls_port}") as sender, pytest.raises(UserError) as caught:
        sender.send(mail())
    assert "cannot be trusted: its certificate is not trusted here" in str(caught.value)
    assert inbox.kept == []


def test_a_wrong_password_is_the_operators_mistake_and_is_not_repeated(
    tls_port: int, certificate: tuple[Path, Path]
) -> None:
    url = f"smtp://ada:hunter2@127.0.0.1:{tls_port}"
    with SmtpSender(url, context=trusting(certificate)) as sender, pytest.raises(UserError) as caught:
        sender.send(mail())
    assert "refused the user or the password" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_server_without_starttls_gets_nothing_unless_told_so(plain_port: int, inbox: Inbox) -> None:
    with SmtpSender(f"smtp://127.0.0.1:{plain_port}") as sender, pytest.raises(UserError, match="STARTTLS"):
        sender.send(mail())
    assert inbox.kept == []
    with SmtpSender(f"smtp://127.0.0.1:{plain_port}?tls=off") as sender:
        sender.send(mail())
    assert len(inbox.kept) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [("550 no such user", Skip), ("451 greylisted, try later", Retry), ("554 spam", Skip), ("452 full", Retry)],
)
def test_refusals_for_now_are_retried_and_those_for_good_are_not(
    plain_port: int, inbox: Inbox, answer: str, error: type[Exception]
) -> None:
    inbox.refuse["ada@example.com"] = answer
    with SmtpSender(f"smtp://127.0.0.1:{plain_port}?tls=off") as sender:
        with pytest.raises(error, match=answer[:3]) as caught:
            sender.send(mail())
        assert caught.value.code == answer[:3]  # type: ignore[attr-defined]
        sender.send(mail("bob@example.com"))
    assert inbox.recipients == ["bob@example.com"]


def test_a_server_that_is_not_there_or_hangs_up_is_tried_again(
    plain_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SmtpSender("smtp://127.0.0.1:1?tls=off", timeout=2) as sender, pytest.raises(Retry, match="cannot be reached"):
        sender.send(mail())

    def hang_up(*_: Any, **__: Any) -> None:
        raise smtplib.SMTPServerDisconnected("gone")

    with SmtpSender(f"smtp://127.0.0.1:{plain_port}?tls=off") as sender:
        sender.send(mail())
        with monkeypatch.context() as patched:
            patched.setattr(smtplib.SMTP, "send_message", hang_up)
            with pytest.raises(Retry, match="broke"):
                sender.send(mail())
        sender.send(mail())


# --- the outbox ---------------------------------------------------------------------------------------------------


@pytest.fixture
def to_server(plain_port: int, tmp_path: Path) -> Settings:
    url = SecretStr(f"smtp://127.0.0.1:{plain_port}?tls=off")
    return Settings(state_dir=tmp_path / "state", email=EmailSettings(smtp_url=url))


def add_users(engine: Engine, *names: str) -> None:
    with engine.begin() as connection:
        for place, name in enumerate(names, 1):
            connection.execute(
                insert(users).values(
                    id=place, email=f"{name}@example.com", name=name, active=True, preferences={}, created_at=NOW
                )
            )


def add(engine: Engine, key: str, *, user_id: int = 1, wants_email: bool = True, **changes: Any) -> bool:
    values: dict[str, Any] = {"kind": "anomaly_alert", "urgency": "normal", "title": key, "message": "m", "data": {}}
    with engine.begin() as connection:
        return notifications.add(
            connection, user_id=user_id, dedupe_key=key, wants_email=wants_email, now=NOW, **(values | changes)
        )


def states(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        return {row.dedupe_key: row.email_state for row in connection.execute(select(table))}


database = {"says": NOW}


@pytest.fixture(autouse=True)
def _database_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "database_clock", lambda _: database["says"])


def deliver(engine: Engine, settings: Settings, *, at: datetime = NOW, **more: Any) -> Delivered:
    database["says"] = at
    return deliver_pending(engine, settings, clock=lambda: at, **more)


def test_what_waits_is_sent_once_and_what_is_not_wanted_is_not(
    engine: Engine, to_server: Settings, inbox: Inbox
) -> None:
    add_users(engine, "ada", "bob")
    assert add(engine, "one")
    assert not add(engine, "one")
    add(engine, "two", user_id=2)
    add(engine, "muted", wants_email=False)
    assert deliver(engine, to_server) == Delivered(sent=2, failed=0)
    assert deliver(engine, to_server) == Delivered(sent=0, failed=0)
    assert inbox.recipients == ["ada@example.com", "bob@example.com"]
    assert states(engine) == {"one": "sent", "two": "sent", "muted": "not_wanted"}


def test_a_report_comes_whole_with_its_csv(engine: Engine, to_server: Settings, inbox: Inbox) -> None:
    add_users(engine, "ada")
    day = date(2026, 3, 10)
    with engine.begin() as connection:
        reports.save(
            connection,
            user_id=1,
            report_date=day,
            now=NOW,
            completeness=1.0,
            summary={},
            html='<h1>Spend up</h1><img alt="chart" src="data:image/png;base64,iVBORw0KGgo=">',
            csv="date,spend\r\n",
            markdown="",
        )
    add(engine, "report", kind="daily_report", data={"report_date": day.isoformat()})
    add(engine, "report-gone", kind="daily_report", data={"report_date": "2025-01-01"})
    assert deliver(engine, to_server).sent == 2
    whole, alone = inbox.kept
    html = whole.get_body(preferencelist=("html",))
    assert html is not None
    assert "Spend up" in html.get_content()
    assert "cid:" in html.get_content()
    assert [part.get_filename() for part in whole.iter_attachments()] == ["report-2026-03-10.csv"]
    assert list(alone.iter_attachments()) == []


def test_a_refused_recipient_does_not_hold_up_the_others(engine: Engine, to_server: Settings, inbox: Inbox) -> None:
    add_users(engine, "ada", "bob", "eve")
    inbox.refuse = {"ada@example.com": "550 unknown", "bob@example.com": "451 later"}
    for user in (1, 2, 3):
        add(engine, f"for {user}", user_id=user)
    assert deliver(engine, to_server) == Delivered(sent=1, failed=2)
    assert states(engine) == {"for 1": "failed", "for 2": "pending", "for 3": "sent"}
    inbox.refuse.clear()
    assert deliver(engine, to_server).sent == 0, "the pause is not over"
    assert deliver(engine, to_server, at=NOW + timedelta(minutes=2)).sent == 1
    assert states(engine) == {"for 1": "failed", "for 2": "sent", "for 3": "sent"}


def test_a_message_that_cannot_be_made_does_not_hold_up_the_others(
    engine: Engine, to_server: Settings, inbox: Inbox
) -> None:
    add_users(engine, "ada")
    add(engine, "broken", kind="daily_report", data={})
    add(engine, "fine")
    assert deliver(engine, to_server) == Delivered(sent=1, failed=1)
    assert states(engine) == {"broken": "failed", "fine": "sent"}


def test_a_server_that_is_down_costs_one_try_and_loses_nothing(engine: Engine, tmp_path: Path) -> None:
    add_users(engine, "ada")
    for n in range(5):
        add(engine, f"{n}")
    down = Settings(state_dir=tmp_path, email=EmailSettings(smtp_url=SecretStr("smtp://127.0.0.1:1?tls=off")))
    delivered = deliver(engine, down)
    assert (delivered.sent, delivered.failed) == (0, 1)
    assert delivered.stopped is not None
    assert "cannot be reached" in delivered.stopped
    assert set(states(engine).values()) == {"pending"}
    files = Settings(state_dir=tmp_path)
    assert deliver(engine, files, at=NOW + timedelta(hours=1)) == Delivered(sent=5, failed=0)
    assert len(list(files.outbox_dir.glob("*.eml"))) == 5


def test_a_mail_is_given_up_after_enough_tries(
    engine: Engine, to_server: Settings, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_ATTEMPTS", 3)
    add_users(engine, "ada")
    add(engine, "never")
    inbox.refuse["ada@example.com"] = "451 later"
    assert [deliver(engine, to_server, at=NOW + timedelta(hours=n)).failed for n in range(5)] == [1, 1, 1, 0, 0]
    assert states(engine) == {"never": "failed"}


def test_whoever_dies_after_sending_leaves_a_mail_that_goes_out_again_as_the_same_message(
    engine: Engine, to_server: Settings, inbox: Inbox
) -> None:
    add_users(engine, "ada")
    add(engine, "twice")

    class Killed(BaseException):
        """Stands for the end of the process."""

    class Dying(SmtpSender):
        def send(self, message: EmailMessage) -> None:
            super().send(message)
            raise Killed

    with pytest.raises(Killed):
        deliver(engine, to_server, sender=Dying(to_server.email.smtp_url.get_secret_value()))
    assert deliver(engine, to_server, at=NOW + timedelta(seconds=LEASE_SECONDS - 1)).sent == 0
    assert deliver(engine, to_server, at=NOW + timedelta(seconds=LEASE_SECONDS + 1)).sent == 1
    assert len({message["Message-ID"] for message in inbox.kept}) == 1


def test_several_workers_at_once_send_each_mail_once(engine: Engine, to_server: Settings, inbox: Inbox) -> None:
    add_users(engine, "ada")
    for n in range(12):
        add(engine, f"{n}")
    with ThreadPoolExecutor(3) as pool:
        delivered = list(pool.map(lambda _: deliver(engine, to_server), range(3)))
    assert sum(each.sent for each in delivered) == 12
    assert sorted(message["Subject"] for message in inbox.kept) == sorted(map(str, range(12)))
