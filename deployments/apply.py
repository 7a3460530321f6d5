"""Makes the Prefect server what the code says: ``python -m deployments.apply``, in everyday words ``aae deploy``.

First everything is read and compared, then what differs is created, changed or removed; twice is once. What belongs to
somebody else is not touched (``deployments/declared.py`` says what is ours). A schedule or deployment that a person
paused stays paused and is named each time, until ``--unpause``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from prefect.settings import Settings as PrefectSettings
from prefect.workers.process import ProcessWorker

from aae import shares
from aae.errors import AaeError, UserError
from aae.operate.channels import AUTOMATION_PREFIX, CHANNEL_PREFIX, send_test
from aae.operate.doctor.basics import on_one_machine
from aae.operate.exposure import on_the_api
from aae.operate.prefect_api import PrefectApi, open_api
from aae.operate.redis_server import dial
from aae.settings import Settings, load
from deployments import declared, jobs
from deployments.declared import COMMAND, WORK_POOL, Block

PROJECT: Final = Path(__file__).parents[1]
SERVER_ENV: Final = PROJECT / "deployments" / "server.env"

CHANNEL: Final = "alert channel"

Action = Literal["create", "change", "remove", "keep"]
_MARKS: Final[dict[Action, str]] = {"create": "+", "change": "~", "remove": "-", "keep": "="}


@dataclass(frozen=True, slots=True)
class Change:
    """One thing on the server and what becomes of it; ``fields`` differ; ``do`` does it (nothing for ``keep``)."""

    kind: str
    name: str
    action: Action
    fields: tuple[str, ...] = ()
    do: Callable[[], object] = lambda: None
    note: str = ""


class Deploy:
    """One comparison of the code with a server. Every method may raise what :class:`PrefectApi` does."""

    def __init__(
        self, api: PrefectApi, settings: Settings, declared_jobs: list[jobs.Declared], *, unpause: bool
    ) -> None:
        self._api = api
        self._jobs = declared_jobs
        self.channels = declared.channels(settings)
        self._silent_seconds = settings.alerts.silent_seconds
        self._unpause = unpause
        self._shares = settings.fetch.shares
        self._results_url = settings.resolved_results_url

    def changes(self) -> Iterator[Change]:
        """Everything that is ours, in the order in which it is to be applied: what others need comes first."""
        yield self._pool()
        yield from self._queues()
        yield from self._limits()
        yield from self._blocks()
        yield from self._deployments()
        yield from self._automations()
        yield from self._channels_no_more()

    def _pool(self) -> Change:
        template = ProcessWorker.get_default_base_job_template()
        template["variables"]["properties"]["command"]["default"] = COMMAND
        body = {
            "description": "Runs AAE's jobs, each as a process of its own.",
            "base_job_template": template,
            "concurrency_limit": declared.POOL_LIMIT + self._shares - 1,
        }
        now = self._api.call("GET", f"work_pools/{WORK_POOL}")
        if now is not None and now["type"] != ProcessWorker.type:
            raise UserError(f"The work pool {WORK_POOL} is of the type {now['type']!r}: delete it first.")
        create = {"name": WORK_POOL, "type": ProcessWorker.type, **body}
        return self._change(
            "work pool",
            WORK_POOL,
            body,
            now,
            create_path="work_pools/",
            update_path=f"work_pools/{WORK_POOL}",
            create=create,
        )

    def _queues(self) -> Iterator[Change]:
        path = f"work_pools/{WORK_POOL}/queues"
        there = {one["name"]: one for one in self._api.call("POST", f"{path}/filter", {}) or []}
        wanted = {one.name: one for one in declared.QUEUES}
        for name in dict.fromkeys(str(one.body["work_queue_name"]) for one in self._jobs):
            wanted.setdefault(name, declared.Queue(name, priority=len(wanted) + 1))
        for name, queue in wanted.items():
            body = {"priority": queue.priority, "concurrency_limit": queue.limit}
            # The pool brings its default queue along.
            now = there.get(name) or (body if name == "default" else None)
            yield self._change(
                "queue",
                name,
                body,
                now,
                create_path=f"{path}/",
                update_path=f"{path}/{name}",
                create={"name": name, **body},
            )
        for name in sorted(set(there) - set(wanted) - {"default"}):
            yield self._remove("queue", name, f"{path}/{name}")

    def _limits(self) -> Iterator[Change]:
        path = "v2/concurrency_limits"
        found = self._api.every(f"{path}/filter", {})
        there = {one["name"]: one for one in found if one["name"].startswith(declared.LIMIT_PREFIX)}
        for one in declared.LIMITS:
            body = {"limit": one.limit}
            create = {"name": one.name, **body}
            yield self._change(
                "limit",
                one.name,
                body,
                there.get(one.name),
                create_path=f"{path}/",
                update_path=f"{path}/{one.name}",
                create=create,
            )
        for name in sorted(set(there) - {one.name for one in declared.LIMITS}):
            yield self._remove("limit", name, f"{path}/{name}")

    def _blocks(self) -> Iterator[Change]:
        yield self._block(declared.result_storage(self._results_url), "result storage")
        for one in self.channels:
            yield self._block(one, CHANNEL)

    def _block(self, wanted: Block, kind: str) -> Change:
        now = self._document(wanted.block_type, wanted.name)
        fields = [key for key, value in wanted.data.items() if now is None or now["data"].get(key) != value]
        if now is not None and not fields:
            return Change(kind, wanted.name, "keep")
        action: Action = "create" if now is None else "change"
        return Change(kind, wanted.name, action, tuple(fields) if now else (), lambda: save_block(wanted))

    def _document(self, block_type: str, name: str) -> Any:
        path = f"block_types/slug/{block_type}/block_documents/name/{name}?include_secrets=true"
        return self._api.call("GET", path)

    def _channels_no_more(self) -> Iterator[Change]:
        """After the automations: they would lose their action with its block."""
        wanted = {(one.block_type, one.name) for one in self.channels}
        for one in self._api.every("block_documents/filter", {}):
            key = (one["block_type"]["slug"], str(one["name"]))
            if key[1].startswith(CHANNEL_PREFIX) and key not in wanted:
                yield self._remove(CHANNEL, key[1], f"block_documents/{one['id']}")

    def _deployments(self) -> Iterator[Change]:
        found = list(self._api.every("deployments/filter", {"deployments": {"tags": {"all_": [declared.TAG]}}}))
        names = self._api.flow_names({one["flow_id"] for one in found})
        wanted = {one.full_name: one for one in self._jobs}
        for full_name, one in wanted.items():
            # By its name, not its tag: somebody may have taken that away.
            yield from self._deployment(one, self._api.call("GET", f"deployments/name/{full_name}"))
        for one in found:
            full_name = f"{names.get(one['flow_id'])}/{one['name']}"
            if full_name not in wanted and one.get("work_pool_name") == WORK_POOL:
                yield self._remove("deployment", full_name, f"deployments/{one['id']}")

    def _deployment(self, wanted: jobs.Declared, now: Any) -> Iterator[Change]:
        if now is None:
            yield Change("deployment", wanted.full_name, "create", (), lambda: self._create(wanted))
            for slug in wanted.schedules:
                # They come with it.
                yield Change("schedule", f"{wanted.full_name} {slug}", "create")
            return
        path = f"deployments/{now['id']}"
        unpause = bool(now["paused"]) and self._unpause
        change = self._change(
            "deployment", wanted.full_name, wanted.body, now, create_path="", update_path=path, create={}
        )
        if unpause:
            yield Change(
                "deployment",
                wanted.full_name,
                "change",
                (*change.fields, "paused"),
                lambda: (change.do(), self._api.call("POST", f"{path}/resume_deployment")),
            )
        else:
            note = "paused by hand: --unpause resumes it" if now["paused"] else ""
            yield Change(change.kind, change.name, change.action, change.fields, change.do, note)
        there = {one["slug"]: one for one in now["schedules"] if one["slug"]}
        for slug, schedule in wanted.schedules.items():
            name = f"{wanted.full_name} {slug}"
            if slug in there:
                yield self._schedule(name, path, schedule, there[slug])
            else:
                yield self._new_schedule(name, path, schedule, now["schedules"])
        for one in now["schedules"]:
            if one["slug"] not in wanted.schedules:
                name = f"{wanted.full_name} {one['slug'] or 'without a slug'}"
                yield self._remove("schedule", name, f"{path}/schedules/{one['id']}")

    def _create(self, wanted: jobs.Declared) -> None:
        flow = self._api.call("POST", "flows/", {"name": wanted.flow})
        body = {"name": wanted.name, "flow_id": flow["id"], "schedules": list(wanted.schedules.values())}
        self._api.call("POST", "deployments/", body | wanted.body)

    def _new_schedule(self, name: str, path: str, wanted: dict[str, Any], there: list[Any]) -> Change:
        """One more, paused if one that it takes the place of was paused by hand: the number of shares was changed."""
        paused = any(
            not one["active"] for one in there if shares.undealt(one["slug"]) == shares.undealt(wanted["slug"])
        )
        body, note = self._as_left(wanted, paused=paused)
        return Change("schedule", name, "create", (), lambda: self._api.call("POST", f"{path}/schedules", [body]), note)

    def _as_left(self, wanted: dict[str, Any], *, paused: bool) -> tuple[dict[str, Any], str]:
        """The schedule and a note, paused if a person has paused it."""
        if wanted["active"] and paused and not self._unpause:
            return {**wanted, "active": False}, "paused by hand: --unpause resumes it"
        return wanted, ""

    def _schedule(self, name: str, path: str, wanted: dict[str, Any], now: Any) -> Change:
        body, note = self._as_left(wanted, paused=not now["active"])
        fields = tuple(key for key, value in body.items() if not _contains(now.get(key), value))
        update = f"{path}/schedules/{now['id']}"
        action: Action = "change" if fields else "keep"
        return Change("schedule", name, action, fields, lambda: self._api.call("PATCH", update, body), note)

    def _automations(self) -> Iterator[Change]:
        there: dict[str, list[Any]] = {}
        for one in self._api.every("automations/filter", {}):
            if one["name"].startswith(AUTOMATION_PREFIX):
                there.setdefault(one["name"], []).append(one)
        for kind in declared.ALERTS:
            wanted = self._automation(kind)
            name = wanted["name"]
            now, *more = there.pop(name, []) or [None]
            yield self._automation_change(kind, wanted, now)
            for one in more:
                yield self._remove("automation", f"{name} (again)", f"automations/{one['id']}")
        for name, others in sorted(there.items()):
            for one in others:
                yield self._remove("automation", name, f"automations/{one['id']}")

    def _automation_change(self, kind: Any, wanted: dict[str, Any], now: Any) -> Change:
        if now is None:
            return Change(
                "automation",
                wanted["name"],
                "create",
                (),
                lambda: self._api.call("POST", "automations/", self._automation(kind)),
            )
        note = ""
        if not now["enabled"] and not self._unpause:
            note = "paused by hand: --unpause resumes it"
        fields = tuple(
            key
            for key, value in wanted.items()
            if not _contains(now.get(key), value) and not (key == "enabled" and note)
        )

        def put() -> None:
            body = self._automation(kind) | ({"enabled": False} if note else {})
            self._api.call("PUT", f"automations/{now['id']}", body)

        return Change("automation", wanted["name"], "change" if fields else "keep", fields, put, note)

    def _automation(self, kind: Any) -> dict[str, Any]:
        """With the channels' ids as they are at this moment."""
        actions = []
        for one in self.channels:
            document = self._document(one.block_type, one.name)
            actions.append(declared.action(one.block_type, document["id"] if document else f"new {one.name}"))
        return declared.automation(kind, actions, silent_seconds=self._silent_seconds)

    def _change(
        self,
        kind: str,
        name: str,
        body: Mapping[str, Any],
        now: Mapping[str, Any] | None,
        *,
        create_path: str,
        update_path: str,
        create: Mapping[str, Any],
    ) -> Change:
        if now is None:
            return Change(kind, name, "create", (), lambda: self._api.call("POST", create_path, create))
        fields = tuple(key for key, value in body.items() if now.get(key) != value)
        action: Action = "change" if fields else "keep"
        return Change(kind, name, action, fields, lambda: self._api.call("PATCH", update_path, dict(body)))

    def _remove(self, kind: str, name: str, path: str) -> Change:
        return Change(kind, name, "remove", (), lambda: self._api.call("DELETE", path))


def _contains(there: Any, wanted: Any) -> bool:
    """Whether the server's value says all that we say; it adds defaults and ids of its own."""
    if isinstance(wanted, dict) and isinstance(there, dict):
        return all(_contains(there.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list) and isinstance(there, list):
        return len(there) == len(wanted) and all(map(_contains, there, wanted))
    return bool(there == wanted)


def save_block(wanted: Block) -> None:
    """Create the block, or make it what it should be."""
    from prefect.blocks.notifications import SlackWebhook  # noqa: PLC0415
    from prefect.blocks.webhook import Webhook  # noqa: PLC0415
    from prefect_redis import RedisDatabase  # noqa: PLC0415

    # Apprise's own URLs pass through the one for Slack unchanged; Prefect has no block for all of them.
    kinds: dict[str, Any] = {"redis-database": RedisDatabase, "webhook": Webhook, "slack-webhook": SlackWebhook}
    kinds[wanted.block_type](**wanted.data).save(wanted.name, overwrite=True)


def server_settings_missing(api: PrefectApi) -> list[str]:
    """Which settings of ``server.env`` the running server does not have, like ``events.retention_period``."""
    lines = [line for line in SERVER_ENV.read_text().splitlines() if "=" in line and not line.startswith("#")]
    default, wanted = _server_settings({}), _server_settings(dict(line.split("=", 1) for line in lines))
    running = dict(_leaves(api.call("GET", "admin/settings").get("server", {})))
    return sorted(name for name, value in wanted.items() if default.get(name) != value != running.get(name))


def _server_settings(variables: Mapping[str, str]) -> dict[str, Any]:
    before = dict(os.environ)
    try:
        for name in before:
            if name.startswith("PREFECT_"):
                del os.environ[name]
        os.environ.update(variables)
        return dict(_leaves(PrefectSettings().model_dump(mode="json")["server"]))
    finally:
        os.environ.clear()
        os.environ.update(before)


def _leaves(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{key}.")
        else:
            # Sets have no order.
            yield f"{before}{key}", sorted(value) if isinstance(value, list) else value


def deploy(
    api: PrefectApi, settings: Settings, *, dry_run: bool, unpause: bool, test_alerts: bool = False
) -> tuple[list[Change], list[str]]:
    """Apply it, or only say what would be; the changes, and what else an operator should know.

    A channel for alerts that is new or has changed is tried with a test alert; all of them are with ``test_alerts``.

    Raises:
        UserError: a setting or ``prefect.yaml`` is wrong; nothing was applied.
        Retry, Reauthorize, Bug: Prefect's API. What was applied until then stays; say it again.
    """
    if not settings.resolved_results_url:
        raise UserError("Prefect's results need a Redis: set AAE_REDIS_URL or AAE_RESULTS_URL.")
    dial(settings.resolved_results_url, "AAE_RESULTS_URL")
    work = Deploy(api, settings, jobs.read(PROJECT, WORK_POOL, settings.fetch.shares), unpause=unpause)
    changes = list(work.changes())
    if not dry_run:
        for change in changes:
            if change.action != "keep":
                change.do()
    remarks = []
    if not work.channels:
        remarks.append("Alerts reach nobody: set AAE_ALERTS__WEBHOOK_URL, __APPRISE_URLS or __EMAIL_TO.")
    new = [one.name for one in changes if one.kind == CHANNEL and one.action in {"create", "change"}]
    tried = [one.name for one in work.channels] if test_alerts else new
    if tried and not dry_run:
        answers = send_test(api, tried, pool=WORK_POOL, now=api.clock() or datetime.now(UTC))
        remarks += [f"{_arrival(name, trouble)}." for name, trouble in answers.items()]
    remarks += [f"{one.what}: {one.remedy}." for one in on_the_api(settings)]
    too_small = on_one_machine(settings)
    if too_small:
        remarks.append(f"{too_small.detail.rstrip('.')}: {too_small.remedy}.")
    missing = server_settings_missing(api)
    if missing:
        remarks.append(f"The Prefect server runs without deployments/server.env: {', '.join(missing)} differ.")
    return changes, remarks


def _arrival(channel: str, trouble: str | None) -> str:
    if trouble is None:
        return f"A test alert has arrived by {channel}"
    return f"A test alert has NOT arrived by {channel}: {trouble}"


def main() -> None:
    """Read the arguments, deploy, print; exit codes as those of ``aae``."""
    parser = argparse.ArgumentParser(prog="aae deploy", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")
    parser.add_argument("--unpause", action="store_true", help="resume what was paused by hand")
    parser.add_argument("--test-alerts", action="store_true", help="send a test alert by every channel")
    parser.add_argument("--json", action="store_true", help="for programs: JSON")
    arguments = parser.parse_args()
    try:
        settings = load()
        with open_api(settings) as api:
            changes, remarks = deploy(
                api,
                settings,
                dry_run=arguments.dry_run,
                unpause=arguments.unpause,
                test_alerts=arguments.test_alerts,
            )
    except AaeError as error:
        sys.stderr.write(f"aae deploy: {error}\n")
        sys.exit(2 if isinstance(error, UserError) else 1)
    if arguments.json:
        found = [
            {"kind": c.kind, "name": c.name, "action": c.action, "fields": c.fields, "note": c.note} for c in changes
        ]
        told = {"dry_run": arguments.dry_run, "changes": found, "remarks": remarks}
        sys.stdout.write(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        return
    for one in changes:
        more = ", ".join((*one.fields, *([one.note] if one.note else [])))
        sys.stdout.write(f"{_MARKS[one.action]} {one.kind:<15} {one.name:<45} {more}".rstrip() + "\n")
    counts = {action: sum(one.action == action for one in changes) for action in _MARKS}
    words = "to create, to change, to remove, as they are" if arguments.dry_run else "created, changed, removed, left"
    done = ", ".join(f"{n} {word}" for n, word in zip(counts.values(), words.split(", "), strict=True))
    sys.stdout.write("\n".join([f"\n{done}.", *remarks]) + "\n")


if __name__ == "__main__":
    main()
