"""Where alerts go: no further inside than the operator says, whatever a name leads to when it is called."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from prefect.blocks.webhook import Webhook
from pydantic import SecretStr

from aae.errors import UserError
from aae.settings import AlertSettings, EmailSettings, Settings
from deployments.declared import channels

# Python's own, where Apprise is imported; gone with Python 3.13, for which Apprise does without.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

OUTSIDE, INSIDE = "93.184.216.34", "10.0.0.5"


def given(**alerts: Any) -> Settings:
    return Settings(alerts=AlertSettings(**alerts), email=EmailSettings(smtp_url=SecretStr("smtp://relay:25?tls=off")))


@pytest.fixture
def name_service(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What names lead to, one look-up after the other, the last for ever; nobody outside is asked."""
    answers = [OUTSIDE]

    def look_up(host: str, port: object, *_: object, **__: object) -> list[Any]:
        if host.endswith(".unknown"):
            raise socket.gaierror("no such name")
        answer = host if host.replace(".", "").isdigit() else answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer, port or 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return answers


@pytest.mark.usefixtures("name_service")
def test_a_webhook_outside_is_called_only_while_it_is_outside() -> None:
    (channel,) = channels(given(webhook_url="https://user:pw@hooks.example.com/T0/x"))
    assert channel.data["allow_private_urls"] is False


@pytest.mark.usefixtures("name_service")
@pytest.mark.parametrize(
    "host", ["127.0.0.1:8065", "10.0.0.5", "[::1]", "2130706433", "169.254.169.254", "chat", "a.local"]
)
def test_a_webhook_inside_is_refused_in_a_sentence_without_the_address(host: str) -> None:
    with pytest.raises(UserError) as caught:
        channels(given(webhook_url=f"http://{host}/hooks/s3cret"))
    assert str(caught.value) == (
        "AAE_ALERTS__WEBHOOK_URL leads to an internal address; if that is meant, set AAE_ALERTS__ALLOW_INTERNAL=true."
    )


def test_so_is_one_whose_name_leads_inside(name_service: list[str]) -> None:
    name_service[:] = [INSIDE]
    with pytest.raises(UserError, match="AAE_ALERTS__WEBHOOK_URL leads to an internal address"):
        channels(given(webhook_url="https://chat.example.com/hooks/s3cret"))


@pytest.mark.usefixtures("name_service")
def test_a_name_that_nobody_knows_is_told_at_once_not_when_something_has_happened() -> None:
    with pytest.raises(UserError, match="AAE_ALERTS__WEBHOOK_URL names a host that is not known here"):
        channels(given(webhook_url="https://hooks.exmaple.unknown/s3cret"))


def test_a_webhook_inside_is_taken_when_the_operator_says_so() -> None:
    (channel,) = channels(given(webhook_url="http://chat:8065/hooks/x", allow_internal=True))
    assert channel.data["allow_private_urls"] is True


@pytest.mark.parametrize(
    "url", ["json://127.0.0.1/s3cret", "mmost://10.0.0.5/0123456789abcdef", "gotifys://chat/s3cret"]
)
def test_an_apprise_address_inside_is_refused_alike(url: str) -> None:
    with pytest.raises(UserError) as caught:
        channels(given(apprise_urls=f"json://hooks.example.com {url}"))
    assert str(caught.value) == (
        "AAE_ALERTS__APPRISE_URLS: the address number 2 leads to an internal address; if that is meant, set "
        "AAE_ALERTS__ALLOW_INTERNAL=true."
    )
    assert len(channels(given(apprise_urls=url, allow_internal=True))) == 1


@pytest.mark.parametrize(
    "url",
    [
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
        "ntfy://alerts",
        "tgram://123456789:abcdefghijklmno/12",
        "discord://123456789/abcdefghijk",
    ],
)
def test_a_token_or_a_topic_in_a_hosts_place_is_not_taken_for_one(url: str) -> None:
    assert len(channels(given(apprise_urls=url))) == 1


def test_our_own_mail_server_may_be_inside() -> None:
    assert len(channels(given(email_to="ops@example.com"))) == 1


# What Prefect's server does with such a block, in the version that is locked.


class Answering:
    """A server on this machine that counts what comes and sends everybody on to its ``/inside``."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.asked.append(self.path)
                self.send_response(307)
                self.send_header("Location", "/inside")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def answering() -> Iterator[Answering]:
    server = Answering()
    yield server
    server.http.shutdown()
    server.http.server_close()


def block(url: str, *, inside: bool) -> Webhook:
    return Webhook(url=SecretStr(url), allow_private_urls=inside)


async def test_the_server_follows_no_redirect_of_a_webhook(answering: Answering) -> None:
    answer = await block(f"http://127.0.0.1:{answering.port}/hook", inside=True).call(payload="{}")
    assert answer.status_code == 307
    assert answering.asked == ["/hook"]


async def test_the_server_refuses_a_webhook_that_leads_inside_when_it_is_called(answering: Answering) -> None:
    with pytest.raises(ValueError, match="private address"):
        await block(f"http://127.0.0.1:{answering.port}/hook", inside=False).call(payload="{}")
    assert answering.asked == []


async def test_the_server_refuses_one_whose_name_leads_inside_only_at_the_moment_of_the_connection(
    answering: Answering, name_service: list[str]
) -> None:
    name_service[:] = [OUTSIDE, "127.0.0.1"]
    with pytest.raises(httpx.ConnectError, match="private address"):
        await block(f"http://rebinding.example.com:{answering.port}/hook", inside=False).call(payload="{}")
    assert name_service == ["127.0.0.1"], "both were asked for"
    assert answering.asked == []
