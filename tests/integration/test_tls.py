"""MySQL, Redis, SMTP and Prefect over TLS with an authority of one's own: it works with it, and with nothing less."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from sqlalchemy import text

from aae.cache import Cache, SharedState
from aae.errors import AaeError, Retry, UserError
from aae.notify.email import SmtpSender
from aae.operate.prefect_api import PrefectApi, open_api
from aae.operate.redis_server import dial
from aae.settings import Settings
from aae.storage import engine as database
from tests.authority import Authority, tls_in_front_of
from tests.conftest import NEEDS_MARIADB
from tests.integration.test_email import Inbox, mail
from tests.servers import connected, free_port, mysql_daemon, mysql_server

UNTRUSTED = "cannot be trusted: its certificate is not trusted here"
ANOTHER_HOST = "cannot be trusted: its certificate is for another host name"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca") / "ours", "ours")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca") / "other", "other")


def refusal(error: AaeError) -> str:
    """What is said: one sentence, or two, on one line, without the password."""
    said = str(error)
    assert len(said.splitlines()) == 1
    assert "hunter2" not in said
    return said


# MySQL


@pytest.fixture(scope="module")
def secure_mysql(ours: Authority) -> Iterator[str]:
    """A server for 127.0.0.1 (not for localhost) with TLS, and a user who must use it."""
    daemon = mysql_daemon()
    if daemon is None:
        pytest.skip(NEEDS_MARIADB)
    made = ours.certify("127.0.0.1")
    options = (f"--ssl-ca={ours.ca}", f"--ssl-cert={made.cert}", f"--ssl-key={made.key}")
    with mysql_server(daemon, *options) as url:
        with connected(url) as engine, engine.begin() as connection:
            connection.exec_driver_sql("CREATE DATABASE aae")
            connection.exec_driver_sql("CREATE USER 'tls'@'127.0.0.1' IDENTIFIED BY 'hunter2' REQUIRE SSL")
            connection.exec_driver_sql("GRANT ALL ON aae.* TO 'tls'@'127.0.0.1'")
        yield url.replace("root@", "tls:hunter2@") + "aae"


@pytest.mark.mysql
class TestMySQL:
    def test_with_the_authority_everything_is_encrypted(self, secure_mysql: str, ours: Authority) -> None:
        with connected(f"{secure_mysql}?ssl_ca={ours.ca}") as engine, engine.connect() as connection:
            assert connection.execute(text("SHOW STATUS LIKE 'Ssl_cipher'")).one()[1]
            database.upgrade(engine)

    def test_another_authority_is_refused(self, secure_mysql: str, other: Authority) -> None:
        with connected(f"{secure_mysql}?ssl_ca={other.ca}") as engine, pytest.raises(UserError) as caught:
            database.check(engine)
        assert UNTRUSTED in refusal(caught.value)

    def test_another_host_name_is_refused(self, secure_mysql: str, ours: Authority) -> None:
        url = f"{secure_mysql}?ssl_ca={ours.ca}".replace("127.0.0.1", "localhost")
        with connected(url) as engine, pytest.raises(UserError) as caught:
            database.check(engine)
        assert ANOTHER_HOST in refusal(caught.value)

    def test_a_server_without_tls_is_not_spoken_to_in_clear(self, mysql_url: str, ours: Authority) -> None:
        daemon = mysql_daemon()
        assert daemon is not None
        with (
            mysql_server(daemon, "--skip-ssl") as url,
            connected(f"{url}mysql?ssl_ca={ours.ca}") as engine,
            pytest.raises(UserError, match="does not offer TLS") as caught,
        ):
            database.check(engine)
        refusal(caught.value)

    def test_a_file_that_is_not_there_is_told(self, secure_mysql: str, tmp_path: Path) -> None:
        with connected(f"{secure_mysql}?ssl_ca={tmp_path}/none") as engine, pytest.raises(UserError) as caught:
            database.check(engine)
        assert "ssl_ca" in refusal(caught.value)


# Redis: the bundled server has no TLS of its own, so an end stands before it.


@pytest.fixture(scope="module")
def secure_redis(_redis_server: str, ours: Authority) -> Iterator[str]:
    port = int(_redis_server.rpartition(":")[2].partition("/")[0])
    with tls_in_front_of(port, ours.certify("127.0.0.1")) as secure:
        yield f"rediss://127.0.0.1:{secure}/0"


class TestRedis:
    def test_with_the_authority_it_works(self, secure_redis: str, ours: Authority) -> None:
        url = f"{secure_redis}?ssl_ca_certs={ours.ca}"
        cache = Cache(url)
        cache.ping()
        with cache.lock("x", 5) as held:
            assert held
        cache.close()
        assert dial(url, "AAE_REDIS_URL")

        async def answer() -> bytes | None:
            state = SharedState(url)
            await state.put_answer("k", b"v")
            try:
                return await state.get_answer("k")
            finally:
                await state.aclose()

        assert asyncio.run(answer()) == b"v"

    @pytest.mark.parametrize("wrong", ["authority", "host"])
    def test_whoever_is_not_vouched_for_is_refused(
        self, secure_redis: str, ours: Authority, other: Authority, wrong: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        ca = other.ca if wrong == "authority" else ours.ca
        url = secure_redis if wrong == "authority" else secure_redis.replace("127.0.0.1", "localhost")
        url = f"{url}?ssl_ca_certs={ca}".replace("rediss://", "rediss://:hunter2@")
        expected = UNTRUSTED if wrong == "authority" else ANOTHER_HOST
        with pytest.raises(UserError) as caught:
            Cache(url).ping()
        assert expected in refusal(caught.value)
        with pytest.raises(UserError) as caught:
            dial(url, "AAE_RESULTS_URL")
        assert expected in refusal(caught.value)
        with caplog.at_level(logging.WARNING), Cache(url).lock("x", 1):
            pass
        assert expected.partition(": ")[2] in caplog.text
        assert "hunter2" not in caplog.text


# SMTP


@pytest.fixture(params=["smtp", "smtps"])
def mail_server(request: pytest.FixtureRequest, ours: Authority) -> Iterator[tuple[str, Inbox]]:
    inbox, context = Inbox(), ours.certify("127.0.0.1").context()
    if request.param == "smtp":
        controller = Controller(
            inbox, hostname="127.0.0.1", port=free_port(), tls_context=context, require_starttls=True
        )
    else:
        controller = Controller(inbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        if request.param == "smtp":
            yield f"smtp://127.0.0.1:{controller.port}", inbox
        else:
            with tls_in_front_of(controller.port, ours.certify("127.0.0.1")) as port:
                yield f"smtps://127.0.0.1:{port}", inbox
    finally:
        controller.stop()


class TestSMTP:
    def test_with_the_authority_a_mail_arrives(self, mail_server: tuple[str, Inbox], ours: Authority) -> None:
        url, inbox = mail_server
        with SmtpSender(f"{url}?ca={ours.ca}") as sender:
            sender.send(mail())
        assert len(inbox.kept) == 1

    def test_whoever_is_not_vouched_for_gets_nothing(
        self, mail_server: tuple[str, Inbox], ours: Authority, other: Authority, tmp_path: Path
    ) -> None:
        url, inbox = mail_server
        wrong = {
            f"{url}?ca={other.ca}": UNTRUSTED,
            url: UNTRUSTED,
            f"{url}?ca={ours.ca}".replace("127.0.0.1", "localhost"): ANOTHER_HOST,
            f"{url}?ca={tmp_path}/none": "holds no PEM certificates",
        }
        for address, expected in wrong.items():
            with SmtpSender(address) as sender, pytest.raises(UserError) as caught:
                sender.send(mail())
            assert expected in refusal(caught.value)
        assert inbox.kept == []

    @pytest.mark.parametrize("query", ["?tls=maybe", "?ca=x&tls=off", "?verify=no", "?ca=x&verify=no"])
    def test_no_option_weakens_it(self, query: str) -> None:
        with pytest.raises(UserError, match="the only options"):
            SmtpSender(f"smtp://127.0.0.1:1{query}")


# Prefect


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(True).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def secure_api(ours: Authority) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Health) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with tls_in_front_of(server.server_port, ours.certify("127.0.0.1")) as port:
            yield f"https://127.0.0.1:{port}/api"
        server.shutdown()
        thread.join()


class TestPrefect:
    def test_with_the_authority_it_answers(
        self, secure_api: str, ours: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PREFECT_API_URL", secure_api)
        monkeypatch.setenv("PREFECT_API_SSL_CERT_FILE", str(ours.ca))
        with open_api(Settings()) as api:
            assert api.health()

    def test_whoever_is_not_vouched_for_is_not_asked(self, secure_api: str, ours: Authority, other: Authority) -> None:
        wrong = (
            (secure_api, None, UNTRUSTED),
            (secure_api, other.ca, UNTRUSTED),
            (secure_api.replace("127.0.0.1", "localhost"), ours.ca, ANOTHER_HOST),
        )
        for url, ca, expected in wrong:
            with (
                PrefectApi(url, ca_file=ca and str(ca), auth_string="u:hunter2") as api,
                pytest.raises(Retry) as caught,
            ):
                api.health()
            assert expected in refusal(caught.value)

    def test_a_file_without_certificates_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("x")
        for name in ("ca.pem", "none.pem"):
            with pytest.raises(UserError, match="PREFECT_API_SSL_CERT_FILE"):
                PrefectApi("https://127.0.0.1:1/api", ca_file=str(tmp_path / name))
