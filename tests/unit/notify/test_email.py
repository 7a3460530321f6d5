"""How a mail is made: repeatable, complete, and with headers that nobody else can write into."""

from __future__ import annotations

import base64
import stat
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from aae.errors import Retry, Skip, UserError
from aae.notify.email import Attachment, FileSender, Mail, SmtpSender, compose, sender_for
from aae.settings import EmailSettings, Settings

URL = "https://app.example.com"
SENDER = "AAE Reports <reports@aae.example>"
PNG = b"\x89PNG\r\n\x1a\nnot really"


def mail(**changes: object) -> Mail:
    values: dict[str, object] = {
        "address": "ada@example.com",
        "user_name": "Ada",
        "urgent": False,
        "title": "High: CPA +80\u00a0% on Winter Sale",
        "message": "First paragraph.\n\nTo do:\n- one\n- two",
        "data": {"link": f"{URL}/incidents/9", "action": "See the incident"},
        "dedupe_key": "anomaly:9:opened",
        "at": datetime(2026, 3, 11, 10, tzinfo=UTC),
    }
    return Mail(**(values | changes))  # type: ignore[arg-type]


def sent(of: Mail) -> EmailMessage:
    """The mail as its reader gets it: through bytes and back."""
    made = compose(of, sender=SENDER, public_url=URL)
    return message_from_bytes(made.as_bytes(), policy=policy.default)  # type: ignore[return-value]


def body(message: EmailMessage, kind: str) -> str:
    part = message.get_body(preferencelist=(kind,))
    assert part is not None
    return str(part.get_content())


def test_a_mail_has_text_html_and_the_headers_of_automatic_mail() -> None:
    message = sent(mail())
    assert message["From"] == SENDER
    assert message["To"] == "Ada <ada@example.com>"
    assert message["Subject"] == "High: CPA +80\u00a0% on Winter Sale"
    assert message["Date"] == "Wed, 11 Mar 2026 10:00:00 +0000"
    assert message["Auto-Submitted"] == "auto-generated"
    assert "First paragraph." in body(message, "plain")
    assert f"See the incident: {URL}/incidents/9" in body(message, "plain")
    assert f'href="{URL}/incidents/9"' in body(message, "html")
    assert "<li" in body(message, "html")


def test_only_ordinary_mail_offers_to_unsubscribe_and_only_urgent_mail_is_marked_important() -> None:
    ordinary, urgent = sent(mail()), sent(mail(urgent=True))
    assert ordinary["List-Unsubscribe"] == f"<{URL}/settings/notifications>"
    assert ordinary["Importance"] is None
    assert urgent["List-Unsubscribe"] is None
    assert urgent["Importance"] == "high"


def test_the_message_id_follows_from_the_dedupe_key_alone() -> None:
    first, again, other = sent(mail()), sent(mail(title="changed")), sent(mail(dedupe_key="another"))
    assert first["Message-ID"] == again["Message-ID"] != other["Message-ID"]
    assert first["Message-ID"].endswith("@aae.example>")


def test_embedded_charts_become_inline_parts_and_the_csv_is_attached_unchanged() -> None:
    uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
    csv = "date,spend\r\n2026-03-10,100\r\n"
    message = sent(mail(html=f'<p>x</p><img src="{uri}">', attachments=(Attachment("report.csv", "csv", csv),)))
    assert message.get_content_type() == "multipart/mixed"
    html = body(message, "html")
    assert "data:" not in html
    (image,) = [part for part in message.walk() if part.get_content_type() == "image/png"]
    assert f'src="cid:{image["Content-ID"].strip("<>")}"' in html
    assert image.get_content() == PNG
    assert image.get_content_disposition() == "inline"
    (attached,) = message.iter_attachments()
    assert (attached.get_filename(), attached.get_content_type()) == ("report.csv", "text/csv")
    assert attached.get_payload(decode=True) == csv.encode()


@settings(max_examples=60, deadline=None)
@given(title=st.text(), name=st.text(), message=st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_adds_a_header_or_a_recipient(title: str, name: str, message: str) -> None:
    made = sent(mail(title=title, user_name=name, message=message))
    usual = sent(mail())
    assert sorted(made.keys()) == sorted(usual.keys())
    assert [address.addr_spec for address in made["To"].addresses] == ["ada@example.com"]


@pytest.mark.parametrize(
    "text", ["x\r\nBcc: v@example.com", "x\nBcc: v@example.com", "x\r\n\r\n<b>body</b>", "x\u2028y"]
)
def test_line_breaks_in_names_stay_text(text: str) -> None:
    made = sent(mail(title=text, user_name=text))
    assert made["Bcc"] is None
    assert [address.addr_spec for address in made["To"].addresses] == ["ada@example.com"]


@pytest.mark.parametrize(
    "address",
    ["", "nobody", "a@b.com, v@example.com", "a@b.com\r\nBcc: v@example.com", "Ada <a@b.com>", "@b.com", "a b@c.com"],
)
def test_what_is_not_one_address_is_refused_for_good(address: str) -> None:
    with pytest.raises(Skip, match="address is not valid"):
        compose(mail(address=address), sender=SENDER, public_url=URL)


def test_a_wrong_sender_is_the_operators_mistake() -> None:
    with pytest.raises(UserError, match="AAE_EMAIL__SENDER"):
        compose(mail(), sender="not an address", public_url=URL)


@pytest.mark.parametrize("link", ["javascript:alert(1)", "http://evil.example", "data:text/html,x", ""])
def test_only_links_to_the_platform_become_buttons(link: str) -> None:
    html = body(sent(mail(data={"link": link, "action": "Go"})), "html")
    assert html.count("<a ") == 1  # the settings


def test_html_of_a_message_is_escaped() -> None:
    html = body(sent(mail(title="<script>alert(1)</script>", message="<img src=x>\n\n- <b>")), "html")
    assert "<script" not in html
    assert "<img" not in html
    assert "<b>" not in html


def test_without_a_server_mails_are_files_of_their_owner_and_a_repeat_is_the_same_file(tmp_path: Path) -> None:
    outbox = tmp_path / "state" / "outbox"
    with FileSender(outbox) as sender:
        for _ in range(2):
            sender.send(compose(mail(), sender=SENDER, public_url=URL))
        sender.send(compose(mail(dedupe_key="../../etc/other"), sender=SENDER, public_url=URL))
    files = list(outbox.iterdir())
    assert len(files) == 2
    assert all(file.suffix == ".eml" and stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    assert message_from_bytes(files[0].read_bytes(), policy=policy.default)["To"] == "Ada <ada@example.com>"


def test_an_outbox_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with FileSender(blocked / "outbox") as sender, pytest.raises(Retry, match="outbox folder"):
        sender.send(compose(mail(), sender=SENDER, public_url=URL))


@pytest.mark.parametrize(
    "url",
    ["http://host", "smtp://", "smtp://host:notaport", "smtp://host?tls=maybe", "smtps://host?tls=off",
     "smtp://user:hunter2@host?tls=off"],
)  # fmt: skip
def test_a_wrong_smtp_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(UserError) as caught:
        SmtpSender(url)
    assert "AAE_EMAIL__SMTP_URL" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_settings_choose_the_way_out(tmp_path: Path) -> None:
    address = SecretStr("smtps://user:pa%40ss@mail.example.com")
    with_server = Settings(state_dir=tmp_path, email=EmailSettings(smtp_url=address))
    assert isinstance(sender_for(with_server), SmtpSender)
    assert isinstance(sender_for(Settings(state_dir=tmp_path)), FileSender)
