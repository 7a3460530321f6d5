"""What the Prefect server holds besides the deployments of ``prefect.yaml``: ``aae deploy`` makes it so.

Whatever is removed here goes away there. Ours are: the work pool ``aae`` with its queues, deployments tagged ``aae``,
automations, blocks and limits by the prefixes below. Nothing else is touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parseaddr
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from aae.addresses import is_internal, require_public
from aae.errors import UserError
from aae.operate.alerts import BEAT, Kind, event_name, runbook
from aae.operate.channels import AUTOMATION_PREFIX, CHANNEL_PREFIX
from aae.settings import Settings

WORK_POOL: Final = "aae"
COMMAND: Final = "python -m tasks.launch"
"""How a worker starts every run of the pool: one run of a job or share at a time, none lost (``tasks/process.py``)."""

RESULT_BLOCK: Final = "aae-results"
RESULT_TIMEOUTS: Final = "socket_timeout=1&socket_connect_timeout=1"
"""A Redis that hangs costs a step two of these (seconds); without its result the step is only made again."""
RESULT_TTL_SECONDS: Final = 7 * 24 * 3600
"""As long as Prefect keeps the events of a run."""

TAG: Final = "aae"
LIMIT_PREFIX: Final = "aae-"

_UNLESS: Final = "AAE_ALERTS__ALLOW_INTERNAL=true"

POOL_LIMIT: Final = 16
"""Processes of runs at once, one more for each share of a fetch beyond the first. The jobs need four; a flood of runs
made by hand gets no further."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of the work pool: the lower its ``priority``, the sooner its runs; as many at once as ``limit``."""

    name: str
    priority: int
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """A global concurrency limit; ``name`` begins with LIMIT_PREFIX."""

    name: str
    limit: int


QUEUES: Final[tuple[Queue, ...]] = (Queue("default", priority=1),)
LIMITS: Final[tuple[Limit, ...]] = ()

ALERTS: Final[dict[Kind, str]] = {
    "lost-run": "A run was lost and is run again",
    "stuck-run": "A run does not begin or does not end",
    "late-run": "A run was due and has not been started",
    "failed-run": "A run has failed for good",
    "stale-data": "No fresh data for hours",
    "no-worker": "No worker serves the work pool",
    "silent-watch": "The watch says nothing any more",
}


@dataclass(frozen=True, slots=True)
class Block:
    """A block of Prefect's by its type's slug: where results lie, or a way to the operators."""

    name: str
    block_type: str
    data: dict[str, Any]


def result_storage(url: str) -> Block:
    """The Redis (or Valkey) database ``url`` for the results of runs: one of its own, as their keys have no prefix."""
    brief = f"{url}{'&' if '?' in url else '?'}{RESULT_TIMEOUTS}"
    return Block(RESULT_BLOCK, "redis-database", {"connection_url": brief, "key_ttl": RESULT_TTL_SECONDS})


def channels(settings: Settings) -> list[Block]:
    """Every channel that the settings name.

    Raises:
        UserError: one cannot be used; the message holds no address.
    """
    found = []
    webhook, inside = settings.alerts.webhook_url.get_secret_value(), settings.alerts.allow_internal
    if webhook:
        if not inside:
            require_public(webhook, "AAE_ALERTS__WEBHOOK_URL", unless=_UNLESS)
        headers = {"Content-Type": "application/json"}
        # The name may lead elsewhere by the time the server calls it: then the block looks once more.
        data = {"url": webhook, "headers": headers, "allow_private_urls": inside}
        found.append(Block(f"{CHANNEL_PREFIX}webhook", "webhook", data))
    urls = settings.alerts.apprise_urls.get_secret_value().split()
    for place, url in enumerate(urls, 1):
        _require_apprise(url, f"AAE_ALERTS__APPRISE_URLS: the address number {place}", inside=inside)
        found.append(Block(f"{CHANNEL_PREFIX}apprise-{place}", "slack-webhook", {"url": url}))
    if settings.alerts.email_to:
        url = email_url(settings)
        _require_apprise(url, "AAE_ALERTS__EMAIL_TO", inside=True)
        found.append(Block(f"{CHANNEL_PREFIX}email", "slack-webhook", {"url": url}))
    return found


def email_url(settings: Settings) -> str:
    """Our SMTP server and the operators' addresses as Apprise writes them.

    Raises:
        UserError: there is no SMTP server, or an address is not one.
    """
    smtp = settings.email.smtp_url.get_secret_value()
    if not smtp:
        raise UserError("AAE_ALERTS__EMAIL_TO needs a mail server: set AAE_EMAIL__SMTP_URL.")
    to = [each.strip() for each in settings.alerts.email_to.split(",") if each.strip()]
    if not to or any(parseaddr(each)[1] != each or "@" not in each for each in to):
        raise UserError("AAE_ALERTS__EMAIL_TO must be e-mail addresses, separated by commas.")
    parts = urlsplit(smtp)
    clear = parts.query == "tls=off"
    mode = "insecure" if clear else "ssl" if parts.scheme == "smtps" else "starttls"
    port = parts.port or (25 if clear else 465 if mode == "ssl" else 587)
    # Both come %-encoded from the one URL and go %-encoded into the other.
    user = f"{parts.username}:{parts.password or ''}@" if parts.username else ""
    name, address = parseaddr(settings.email.sender)
    query = {"smtp": parts.hostname, "mode": mode, "from": address, "name": name or "AAE", "to": ",".join(to)}
    return f"{'mailto' if clear else 'mailtos'}://{user}{parts.hostname}:{port}?{urlencode(query, quote_via=quote)}"


def _require_apprise(url: str, what: str, *, inside: bool) -> None:
    from apprise import Apprise  # noqa: PLC0415 - takes half a second

    service: Any = Apprise.instantiate(url)
    if service is None:
        raise UserError(f"{what} is not a URL that Apprise knows.")
    # Of services that have a server of their own the "host" may be a token or a topic.
    names_host = all("{host}" in template for template in service.templates)
    if names_host and not inside and is_internal(service.host):
        raise UserError(f"{what} leads to an internal address; if that is meant, set {_UNLESS}.")


def automation(kind: Kind, actions: list[dict[str, Any]], *, silent_seconds: float) -> dict[str, Any]:
    """The automation of this alert as the API takes it; ``actions`` by :func:`action`."""
    trigger: dict[str, Any] = {
        "type": "event",
        "match": {},
        "match_related": {},
        "after": [],
        "expect": [event_name(kind)],
        "for_each": ["prefect.resource.id"],
        "posture": "Reactive",
        "threshold": 1,
        "within": 0,
    }
    if kind == "silent-watch":
        # The one that the watch cannot tell by itself.
        silence = {"after": [BEAT], "expect": [BEAT], "posture": "Proactive", "within": silent_seconds}
        trigger |= silence
    return {
        "name": f"{AUTOMATION_PREFIX}{kind}",
        "description": f"{ALERTS[kind]}. See {runbook(kind)}; declared by aae deploy.",
        "enabled": True,
        "trigger": trigger,
        "actions": actions or [{"type": "do-nothing"}],
    }


def action(block_type: str, block_id: str) -> dict[str, Any]:
    """What carries an alert to one channel: the event holds all of it (of a silent watch, its last beat)."""
    if block_type == "webhook":
        return {"type": "call-webhook", "block_document_id": block_id, "payload": "{{ event.payload | tojson }}"}
    title, text = "{{ event.payload.title }}", "{{ event.payload.text }}"
    return {"type": "send-notification", "block_document_id": block_id, "subject": title, "body": text}
