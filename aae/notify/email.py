"""E-mail: how a notification becomes a message, and the two ways out of the house (SMTP, files).

Knows nothing of the database. Composing is pure and repeatable: the Message-ID is derived from the notification's
dedupe key, so a message sent twice after a crash is one message to a mail reader, and one file in the outbox folder.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import smtplib
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage, MIMEPart
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import jinja2

from aae import tls
from aae.display import clean
from aae.errors import Retry, Skip, UserError
from aae.settings import Settings

TIMEOUT_SECONDS: Final = 30.0
"""Longest wait for one answer of the mail server."""
_PNG: Final = re.compile(r'src="data:image/png;base64,([A-Za-z0-9+/]+=*)"')
_CONTENT_LIMIT: Final = 200


@dataclass(frozen=True, slots=True)
class Attachment:
    """A text file that comes with a mail; ``subtype`` of ``text/``, for instance ``csv``."""

    name: str
    subtype: str
    content: str


@dataclass(frozen=True, slots=True)
class Mail:
    """What :func:`compose` needs to know of one notification.

    ``html`` is a complete page that goes instead of the plain layout; its embedded PNG images become inline parts.
    ``at`` (aware) is when the news was made: the Date of every try.
    """

    address: str
    user_name: str
    urgent: bool
    title: str
    message: str
    data: Mapping[str, Any]
    dedupe_key: str
    at: datetime
    html: str | None = None
    attachments: tuple[Attachment, ...] = ()


class Sender(Protocol):
    """A way out of the house, used as a context manager; sending raises ``Retry``, ``Skip`` or ``UserError``."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def send(self, message: EmailMessage) -> None:
        """Hand the message over; when this returns, the other side has it."""


def sender_for(settings: Settings) -> Sender:
    """SMTP where a server is set, files in the outbox folder otherwise.

    Raises:
        UserError: the SMTP address is wrong.
    """
    url = settings.email.smtp_url.get_secret_value()
    return SmtpSender(url) if url else FileSender(settings.outbox_dir)


def compose(mail: Mail, *, sender: str, public_url: str) -> EmailMessage:
    """The message: text, HTML, inline charts and attachments, with headers that no name can add to.

    Raises:
        Skip: the recipient's address is not one.
        UserError: the sender's address is not one.
    """
    origin = _sender_address(sender)
    # A lone surrogate cannot be sent; one strange character must not keep the mail.
    mail = replace(mail, message=mail.message.encode("utf-8", "replace").decode())
    link, action = str(mail.data.get("link", "")), clean(str(mail.data.get("action", "Open")))
    # What is in the table may be anybody's: a mail of ours leads to our platform and nowhere else.
    if not link.startswith(f"{public_url}/"):
        link = ""
    settings_link = f"{public_url}/settings/notifications"

    message = EmailMessage(policy=SMTP)
    message["From"] = origin
    message["To"] = _recipient_address(mail)
    message["Subject"] = _header(mail.title, limit=200)
    message["Date"] = format_datetime(mail.at)
    message["Message-ID"] = f"<{_digest(mail.dedupe_key)}@{origin.domain}>"
    # RFC 3834: no out-of-office answers to a program.
    message["Auto-Submitted"] = "auto-generated"
    if mail.urgent:
        message["Importance"] = "high"
        message["X-Priority"] = "1"
    else:
        message["List-Unsubscribe"] = f"<{settings_link}>"

    footer = [f"{action}: {link}"] if link else []
    if not mail.urgent:
        footer.append(f"Choose which messages you get: {settings_link}")
    message.set_content("\n\n".join([mail.message, *footer]) + "\n", cte="quoted-printable")
    html = mail.html or _plain_page(mail, link=link, action=action, settings_link=settings_link)
    _add_html(message, html, origin.domain)
    for attachment in mail.attachments:
        message.add_attachment(
            attachment.content.encode(),
            maintype="text",
            subtype=attachment.subtype,
            filename=_header(attachment.name),
            params={"charset": "utf-8"},
        )
    return message


class FileSender:
    """Writes each message as an ``.eml`` file, named after its Message-ID: sending twice leaves one file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held open."""

    def send(self, message: EmailMessage) -> None:
        """Write atomically, readable by the owner only.

        Raises:
            Retry: the folder cannot be written to.
        """
        stem = re.sub(r"[^A-Za-z0-9]", "-", str(message["Message-ID"]).strip("<>").partition("@")[0])
        draft = self._folder / f".{stem}.{os.getpid()}.tmp"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(message.as_bytes())
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._folder / f"{stem}.eml")
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            raise Retry(f"The outbox folder cannot be written to ({error.strerror}).") from error


class SmtpSender:
    """Sends through one SMTP server over one connection, opened at the first message.

    ``smtp://[user:password@]host[:587]`` upgrades with STARTTLS and refuses to go on without it;
    ``smtps://[user:password@]host[:465]`` speaks TLS from the start. Certificates are verified. Only a server that
    needs no password may be spoken to in clear: ``smtp://host:25?tls=off``, for a relay on this machine. ``?ca=/path``
    trusts one's own authority, a file of PEM certificates, in place of the public ones.
    """

    def __init__(self, url: str, *, context: ssl.SSLContext | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        """Read the URL; nothing is dialled yet.

        Raises:
            UserError: it is not of one of the forms above. The message never holds the URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise UserError("AAE_EMAIL__SMTP_URL is not an address: its port or host is wrong.") from None
        if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
            raise UserError("AAE_EMAIL__SMTP_URL must look like smtp://user:password@host:587 or smtps://host.")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        in_clear = options == {"tls": "off"} and parts.scheme == "smtp"
        if options and not in_clear and set(options) != {"ca"}:
            raise UserError("AAE_EMAIL__SMTP_URL: the only options are ?ca=/path/to/ca.pem or, with smtp://, tls=off.")
        if in_clear and parts.username:
            raise UserError("AAE_EMAIL__SMTP_URL: a password may not travel in clear; remove ?tls=off.")
        self._implicit = parts.scheme == "smtps"
        self._starttls = not self._implicit and not in_clear
        self._ca_file = options.get("ca")
        self._host = parts.hostname
        self._port = port or (465 if self._implicit else 587)
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._context = context
        self._timeout = timeout
        self._server: smtplib.SMTP | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hang_up()

    def send(self, message: EmailMessage) -> None:
        """Hand the message to the server.

        Raises:
            Retry: no server, a dropped connection, a temporary refusal (4xx).
            Skip: this message or its recipient is refused for good (5xx).
            UserError: the server refuses us, our password or our certificate check.
        """
        server = self._server or self._dial()
        self._server = server
        try:
            server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            self._hang_up()
            code, reason = next(iter(error.recipients.values()))
            raise _refusal(code, reason) from error
        except smtplib.SMTPResponseException as error:
            self._hang_up()
            raise _refusal(error.smtp_code, error.smtp_error) from error
        except smtplib.SMTPNotSupportedError as error:
            self._hang_up()
            raise Skip("The mail server does not take addresses with letters outside ASCII.") from error
        except (smtplib.SMTPException, OSError) as error:
            self._hang_up()
            raise Retry(f"The connection to the mail server broke ({type(error).__name__}).") from error

    def _dial(self) -> smtplib.SMTP:
        where = f"{self._host}:{self._port}"
        server: smtplib.SMTP | None = None
        try:
            context = self._context or _trusting(self._ca_file)
            # A given local name spares a DNS look-up that may take half a minute.
            if self._implicit:
                server = smtplib.SMTP_SSL(
                    self._host, self._port, local_hostname="localhost", timeout=self._timeout, context=context
                )
            else:
                server = smtplib.SMTP(self._host, self._port, local_hostname="localhost", timeout=self._timeout)
            if self._starttls:
                server.starttls(context=context)
            if self._user:
                server.login(self._user, self._password)
        except ssl.SSLError as error:
            _close(server)
            raise UserError(f"The mail server {where} cannot be trusted: {tls.trouble(error)}.") from None
        except smtplib.SMTPNotSupportedError:
            _close(server)
            lacking = "STARTTLS" if self._starttls else "logging in"
            raise UserError(
                f"The mail server {where} does not offer {lacking}: use smtps:// or correct AAE_EMAIL__SMTP_URL."
            ) from None
        except smtplib.SMTPAuthenticationError as error:
            _close(server)
            if error.smtp_code < 500:
                raise Retry(f"The mail server {where} cannot log us in right now ({error.smtp_code}).") from None
            # The server's own words may repeat what we sent; they stay out.
            raise UserError(
                f"The mail server {where} refused the user or the password ({error.smtp_code}): "
                "correct AAE_EMAIL__SMTP_URL."
            ) from None
        except (smtplib.SMTPException, OSError) as error:
            _close(server)
            raise Retry(f"The mail server {where} cannot be reached ({type(error).__name__}).") from None
        return server

    def _hang_up(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            try:
                server.quit()
            except (smtplib.SMTPException, OSError):
                server.close()


def _trusting(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError:  # ssl's own errors are such, too
        raise UserError("The file that ?ca= in AAE_EMAIL__SMTP_URL names holds no PEM certificates.") from None


def _close(server: smtplib.SMTP | None) -> None:
    if server is not None:
        server.close()


def _refusal(code: int, reason: bytes | str) -> Retry | Skip:
    """RFC 5321: 4yz is for now, 5yz for good."""
    said = reason.decode(errors="replace") if isinstance(reason, bytes) else reason
    told = f"The mail server answered {code}: {clean(said, limit=_CONTENT_LIMIT)}"
    return Skip(told, code=str(code)) if code >= 500 else Retry(told, code=str(code))


def _header(text: str, *, limit: int = 120) -> str:
    """Text for a header. The standard library decodes encoded words in it, and a line break in one adds a header."""
    return clean(text, limit=limit).replace("=?", "= ?")


def _sender_address(value: str) -> Address:
    name, address = parseaddr(value)
    try:
        return Address(display_name=_header(name) if name else "", addr_spec=address)
    except (ValueError, MessageError, IndexError):
        raise UserError("AAE_EMAIL__SENDER is not an e-mail address.") from None


def _recipient_address(mail: Mail) -> Address:
    """The standard library parses the address; one with a line break or a comma in it is not one."""
    try:
        found = Address(display_name=_header(mail.user_name), addr_spec=mail.address)
    except (ValueError, MessageError, IndexError):
        raise Skip("The recipient's e-mail address is not valid.") from None
    if not found.username or not found.domain or not mail.address.isprintable():
        raise Skip("The recipient's e-mail address is not valid.")
    return found


def _add_html(message: EmailMessage, html: str, domain: str) -> None:
    """The HTML as the better alternative, its embedded images as parts that it names: mail clients drop data URIs."""
    images: dict[str, bytes] = {}

    def named(found: re.Match[str]) -> str:
        png = base64.b64decode(found.group(1))
        cid = f"{hashlib.sha256(png).hexdigest()[:24]}@{domain}"
        images[cid] = png
        return f'src="cid:{cid}"'

    message.add_alternative(_PNG.sub(named, html), subtype="html", cte="quoted-printable")
    page = message.get_body(preferencelist=("html",))
    for place, (cid, png) in enumerate(images.items(), 1):
        assert isinstance(page, MIMEPart)  # noqa: S101 - added two lines above
        page.add_related(png, "image", "png", cid=f"<{cid}>", filename=f"chart-{place}.png", disposition="inline")


def _plain_page(mail: Mail, *, link: str, action: str, settings_link: str) -> str:
    paragraphs = []
    for block in mail.message.split("\n\n"):
        lines = block.splitlines()
        items = [line[2:] for line in lines if line.startswith("- ")]
        paragraphs.append({"lead": " ".join(line for line in lines if not line.startswith("- ")), "items": items})
    return (
        _templates()
        .get_template("message.html")
        .render(
            title=clean(mail.title, limit=200),
            paragraphs=paragraphs,
            urgent=mail.urgent,
            link=link,
            action=action,
            settings_link=settings_link,
        )
    )


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("aae.notify"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]
