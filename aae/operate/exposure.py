"""What others could read or do: connections in clear beyond this machine, an API without a login, open files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from sqlalchemy import make_url

from aae.addresses import is_loopback
from aae.errors import AaeError
from aae.model import Platform
from aae.operate.prefect_api import PrefectApi
from aae.settings import Settings

_NO: Final = frozenset({"none", "false", "0", "no", "optional"})
_FOR_OTHERS: Final = 0o027
"""Rights on a file: whatever others may do with it, and what a group may beyond reading it."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """One such thing in a sentence, and what to do about it. Neither holds a secret."""

    what: str
    remedy: str


def in_the_settings(settings: Settings) -> list[Exposure]:
    """What the settings alone tell. Connections within this machine, and through sockets, are nobody's business."""
    return [*_database(settings), *_redis(settings), *_mail(settings), *_http(settings), *_cluster(settings)]


def in_files(settings: Settings) -> list[Exposure]:
    """Files with secrets that more than their owner, and the group they were given to, can read here."""
    settings_file = settings.model_config.get("env_file")
    files = [settings.resolved_key_file, *([Path(str(settings_file))] if settings_file else [])]
    return [
        Exposure(f"{file.absolute()} is open to other users of this machine, with its secrets", f"chmod 600 {file}")
        for file in files
        if file.exists() and file.stat().st_mode & _FOR_OTHERS
    ]


def on_the_api(settings: Settings) -> list[Exposure]:
    """Ask Prefect's API without any login, from here. Nothing where it is this machine's, or does not answer."""
    url = settings.prefect_api_url
    if not url or is_loopback(urlsplit(url).hostname or ""):
        return []
    if not lets_anybody_in(url, settings.prefect_api_ssl_cert_file or None):
        return []
    return [
        Exposure(
            f"Prefect's API at {url} lets anybody in: whoever reaches it can run code on the workers",
            "start the server with PREFECT_SERVER_API_AUTH_STRING=user:password, "
            "and give workers and commands the same as PREFECT_API_AUTH_STRING",
        )
    ]


def lets_anybody_in(url: str, ca_file: str | None = None) -> bool:
    """Whether the API answers a question of substance to somebody who has not logged in."""
    with PrefectApi(url, ca_file=ca_file, timeout=5) as api:
        try:
            api.server_version()
        except AaeError:  # it wants a login, or does not answer
            return False
        return True


def _database(settings: Settings) -> Iterator[Exposure]:
    url = make_url(settings.resolved_database_url)
    if url.get_backend_name() == "sqlite" or is_loopback(url.host or "") or "unix_socket" in url.query:
        return
    verified = {"ssl_ca", "ssl_capath"} & url.query.keys()
    if not verified or str(url.query.get("ssl_check_hostname", "")).lower() in _NO:
        yield Exposure(
            f"what goes to the database on {url.host} can be read or changed on the way",
            "add ssl_ca=/path/to/ca.pem to AAE_DATABASE_URL",
        )


def _redis(settings: Settings) -> Iterator[Exposure]:
    for variable, url in (("AAE_REDIS_URL", settings.redis_url), ("AAE_RESULTS_URL", settings.results_url)):
        parts = urlsplit(url)
        if not url or parts.scheme == "unix" or is_loopback(parts.hostname or ""):
            continue
        options = dict(parse_qsl(parts.query))
        if parts.scheme != "rediss" or {options.get("ssl_cert_reqs"), options.get("ssl_check_hostname")} & {
            each for word in _NO for each in (word, word.capitalize())
        }:
            yield Exposure(
                f"what goes to Redis on {parts.hostname} can be read or changed on the way",
                f"use rediss:// in {variable}, and ?ssl_ca_certs=/path/to/ca.pem for an authority of your own",
            )
        if not (parts.password or options.get("password")):
            yield Exposure(
                f"Redis on {parts.hostname} asks for no password",
                f"set one on the server and in {variable} (rediss://user:password@...)",
            )


def _mail(settings: Settings) -> Iterator[Exposure]:
    parts = urlsplit(settings.email.smtp_url.get_secret_value())
    if "tls=off" in parts.query and not is_loopback(parts.hostname or ""):
        yield Exposure(
            f"mails go to {parts.hostname} in clear", "remove ?tls=off from AAE_EMAIL__SMTP_URL, or use a relay here"
        )


def _http(settings: Settings) -> Iterator[Exposure]:
    addresses = {f"AAE_{platform.upper()}__BASE_URL": settings.of(platform).base_url for platform in Platform}
    addresses |= {
        "AAE_GOOGLE__TOKEN_URL": settings.google.token_url,
        "PREFECT_API_URL": settings.prefect_api_url,
        "AAE_PUBLIC_URL": settings.public_url,
    }
    for variable, url in addresses.items():
        parts = urlsplit(url)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            told = f"what goes to {parts.hostname} can be read or changed on the way"
            yield Exposure(told, f"use https in {variable}")


def _cluster(settings: Settings) -> Iterator[Exposure]:
    """A Dask scheduler in clear knows nobody: it is by the certificates of ``tls://`` that it lets one in."""
    parts = urlsplit(settings.fetch.cluster)
    if parts.scheme == "tcp" and not is_loopback(parts.hostname or ""):
        yield Exposure(
            f"the Dask scheduler on {parts.hostname} lets anybody in, in clear: whoever reaches it can run code in its "
            "workers, which have our secrets",
            "use tls:// in AAE_FETCH__CLUSTER, with certificates of your own on both sides (docs/running.md)",
        )
