"""A Celery configuration is read without being run, and becomes the prefect.yaml that means the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aae.errors import UserError
from aae.local.stack import PROJECT
from aae.operate.beat.prefect_yaml import plan, write
from aae.operate.beat.source import read_beat

CUSTOMER = """
from celery import Celery
from celery.schedules import crontab

app = Celery("aae", broker="redis://localhost:6379/0")
app.conf.update(timezone="UTC", enable_utc=True)
app.conf.beat_schedule = {
    "check-token-expiry": {
        "task": "app.tasks.token_refresh.check_token_expiry",
        "schedule": crontab(hour=2, minute=0),
    },
    "fetch-ad-data": {
        "task": "app.tasks.data_fetch.fetch_ad_data",
        "schedule": crontab(hour="0,6,12,18", minute=0),
    },
    "daily-report": {
        "task": "app.tasks.reports.generate_daily_report",
        "schedule": crontab(hour=9, minute=0),
    },
    "detect-anomalies": {
        "task": "app.tasks.anomaly_detection.detect_anomalies",
        "schedule": crontab(minute=0),
    },
}
"""


def imported(tmp_path: Path, text: str, name: str = "celery_app.py") -> list[dict[str, Any]]:
    """The deployments of the file that is written."""
    path = tmp_path / name
    path.write_text(text)
    written = write(plan(read_beat(str(path)), PROJECT), PROJECT, str(path))
    return list(yaml.safe_load(written)["deployments"])


def entry(schedule: str, more: str = "") -> str:
    return f"beat_schedule = {{'one': {{'task': 'x.ping', 'schedule': {schedule}{more}}}}}"


def refused(tmp_path: Path, text: str, name: str = "celery_app.py") -> str:
    with pytest.raises(UserError) as error:
        imported(tmp_path, text, name)
    return str(error.value)


def test_the_customers_four_jobs_become_our_own_prefect_yaml(tmp_path: Path) -> None:
    ours = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]

    def key(one: dict[str, Any]) -> Any:
        return one["entrypoint"]

    picture = [
        [(one["entrypoint"], one["name"], one["schedules"], one["work_pool"]) for one in sorted(each, key=key)]
        for each in (imported(tmp_path, CUSTOMER), ours)
    ]
    assert picture[0] == picture[1]


def test_nothing_of_the_file_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    text = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n{CUSTOMER}"
    assert len(imported(tmp_path, text)) == 4
    assert not mark.exists()


@pytest.mark.parametrize(
    "text",
    [
        "CELERY_BEAT_SCHEDULE = {S}",
        "CELERYBEAT_SCHEDULE: dict = {S}",
        "class Config:\n    beat_schedule = {S}",
        "app.conf.beat_schedule = {S}",
        "app.conf['beat_schedule'] = {S}",
        "app.conf.update(beat_schedule={S})",
        "app.conf.update({'beat_schedule': {S}})",
        "app.conf.beat_schedule.update({S})",
        "app.conf.beat_schedule['one'] = {E}",
        "def make():\n    app.conf.beat_schedule = {S}",
        "NIGHT = crontab(minute=0, hour=2)\nbeat_schedule = {'one': {'task': 'x.ping', 'schedule': NIGHT}}",
        "base = {S}\napp.conf.beat_schedule = {**base}",
        "app.conf.beat_schedule = dict(one=dict(task='x.ping', schedule=crontab(0, 2)))",
        "sender.add_periodic_task(crontab(hour=2, minute=0), ping.s(), name='one')",
    ],
)
def test_a_schedule_is_found_wherever_celery_people_write_it(tmp_path: Path, text: str) -> None:
    one = "{'task': 'x.ping', 'schedule': celery.schedules.crontab(hour=2, minute=0)}"
    (found,) = imported(tmp_path, text.replace("{S}", f"{{'one': {one}}}").replace("{E}", one))
    assert (found["name"], found["schedules"][0]["cron"]) == ("one", "0 2 * * *")
    assert found["entrypoint"] == "flows/TO_DO.py:ping"


@pytest.mark.parametrize(
    ("schedule", "written"),
    [
        ("crontab(minute='*/15', day_of_week='mon-fri')", {"cron": "*/15 * * * 1-5", "timezone": "UTC"}),
        ("crontab(minute=0, hour=range(8, 18))", {"cron": "0 8-17 * * *", "timezone": "UTC"}),
        ("crontab(minute=0, hour=set([1, 2]))", {"cron": "0 1,2 * * *", "timezone": "UTC"}),
        ("crontab.from_string('0 9 1 * *')", {"cron": "0 9 1 * *", "timezone": "UTC"}),
        ("60 * 60 * 6", {"cron": "0 */6 * * *", "timezone": "UTC"}),
        ("30.0", {"interval": 30}),
        ("timedelta(hours=1)", {"cron": "0 * * * *", "timezone": "UTC"}),
        ("datetime.timedelta(days=2)", {"interval": 172800}),
        ("schedule(run_every=timedelta(minutes=7))", {"interval": 420}),
        ("schedule(run_every=3600, relative=True)", {"cron": "0 * * * *", "timezone": "UTC"}),
        ("crontab(0, 9, 'fri', '8-14')", {"cron": "0 9 8-14 * 5", "timezone": "UTC", "day_or": False}),
    ],
)
def test_every_kind_of_schedule(tmp_path: Path, schedule: str, written: dict[str, Any]) -> None:
    (found,) = imported(tmp_path, entry(schedule))
    (one,) = found["schedules"]
    assert {name: one[name] for name in one if name not in {"slug", "active", "anchor_date"}} == written
    assert (one["slug"], one["active"]) == ("one", True)


@pytest.mark.parametrize(
    "text",
    [
        "app.conf.timezone = 'Europe/Vienna'",
        "app.conf.update(timezone='Europe/Vienna')",
        "CELERY_TIMEZONE = 'Europe/Vienna'",
    ],
)
def test_the_time_zone_of_the_configuration_counts(tmp_path: Path, text: str) -> None:
    (found,) = imported(tmp_path, f"{text}\n{entry('crontab(0, 9)')}")
    assert found["schedules"][0]["timezone"] == "Europe/Vienna"


def test_kwargs_are_parameters_and_a_queue_is_a_work_queue(tmp_path: Path) -> None:
    more = ", 'kwargs': {'to': ['a', None, 1.5], 'n': -3}, 'options': {'queue': 'mail', 'expires': 60}"
    (found,) = imported(tmp_path, entry("crontab(0)", more))
    assert found["parameters"] == {"to": ["a", None, 1.5], "n": -3}
    assert found["work_pool"]["work_queue_name"] == "mail"
    assert found["work_pool"]["name"] == "aae"


def test_two_entries_of_one_task_are_two_deployments(tmp_path: Path) -> None:
    text = """beat_schedule = {
        "EU reports!": {"task": "generate_daily_report", "schedule": crontab(0, 5), "kwargs": {"users": [1]}},
        "eu-reports": {"task": "generate_daily_report", "schedule": crontab(0, 9), "kwargs": {"users": [2]}},
    }"""
    found = imported(tmp_path, text)
    assert [one["name"] for one in found] == ["eu-reports", "eu-reports-2"]
    assert [one["parameters"] for one in found] == [{"users": [1]}, {"users": [2]}]


def test_json_is_read_too(tmp_path: Path) -> None:
    schedules = ["0 2 * * *", 3600, {"minute": 0, "hour": "*/6"}, {"hours": 1}]
    entries = {f"e{n}": {"task": f"x.t{n}", "schedule": one} for n, one in enumerate(schedules)}
    text = json.dumps({"beat_schedule": entries, "timezone": "UTC"})
    found = imported(tmp_path, text, "beat.json")
    crons = [one["schedules"][0]["cron"] for one in found]
    assert crons == ["0 2 * * *", "0 * * * *", "0 */6 * * *", "0 * * * *"]
    assert imported(tmp_path, json.dumps(entries), "beat.json") == found


def test_a_module_is_found_below_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proj").mkdir()
    (tmp_path / "proj" / "celery.py").write_text(CUSTOMER)
    monkeypatch.chdir(tmp_path)
    assert len(read_beat("proj.celery")) == 4


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (entry("solar('sunset', 1, 2)"), "one: the sun's position"),
        (entry("MySchedule()"), "one: in line 1, MySchedule() can only be known by running the program"),
        (entry("os.environ['X']"), "one: in line 1, os.environ['X'] can only be known"),
        (entry("crontab(minute=61)"), "one: minute=61 is not within"),
        (entry("crontab(second=1)"), "one: its crontab(...) has arguments that Celery does not know"),
        (entry("'0 2 * * *'"), "neither crontab, number of seconds nor timedelta"),
        (entry("True"), "one: True is no schedule"),
        (entry("-5"), "interval of -5 seconds"),
        (entry("1 / 0"), "is no number"),
        (entry("range(10 ** 9)"), "can only be known"),
        (entry("range(1000000000)"), "too long"),
        (entry("crontab(0)", ", 'args': (1,)"), "one: it has args"),
        (entry("crontab(0)", ", 'kwargs': {'a': {1}}, 'x': 1"), "does not know x"),
        (entry("crontab(0)", ", 'kwargs': {'a': b'1'}"), "kwargs hold something"),
        (entry("crontab(0)", ", 'kwargs': {'a': '{{ $HOME }}'}"), "take for a template"),
        (entry("crontab(0)", ", 'kwargs': {'a-b': 1}"), "cannot be a parameter's name"),
        (entry("crontab(0)", ", 'options': {'countdown': 1}"), "option countdown has no counterpart"),
        (entry("crontab(0)", ", 'options': {'queue': 'a b'}"), "name of its queue"),
        ("beat_schedule = {'one': {'schedule': 5}}", "one: it names no task"),
        ("beat_schedule = {'one': {'task': 'a'}}", "one: it has no schedule"),
        ("beat_schedule = {'one': 5}", "one: it is no dictionary"),
        ("beat_schedule = load()", "beat_schedule: in line 1 it is load()"),
        ("beat_schedule = {n: 1 for n in x}", "only running the program could tell"),
        (
            "beat_schedule = {'one': {'task': 'fetch_ad_data', 'schedule': 60, 'kwargs': {'acount': 1}}}",
            "no parameter acount; it has accounts",
        ),
        (f"timezone = 'Mars/Base'\n{entry('60')}", "time zone 'Mars/Base' is not known"),
        (f"timezone = 5\n{entry('60')}", "time zone 5 is not known"),
        (f"enable_utc = False\n{entry('60')}", "say which one"),
        ("x = 1", "holds no beat schedule"),
        ("beat_schedule = {", "is not Python that can be read (SyntaxError, line 1)"),
        (f"x = {'(' * 5000}", "is not Python"),
        (f"beat_schedule = {'-' * 3000}1", "is not Python that can be read"),
        (f"beat_schedule = {{'one': {'-' * 60}1}}", "nested too deeply"),
        (
            "\n".join(f"a{n} = [a{n + 1}, a{n + 1}]" for n in range(20)) + "\na20 = 1\nbeat_schedule = {'one': a0}",
            "too much",
        ),
        ("a = b\nb = a\nbeat_schedule = {'one': a}", "nested too deeply"),
    ],
)
def test_what_has_no_counterpart_is_a_sentence_about_that_entry(tmp_path: Path, text: str, complaint: str) -> None:
    assert complaint in refused(tmp_path, text)


def test_every_entry_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = "beat_schedule = {'a': {'task': 'x', 'schedule': solar(1)}, 'b': {'task': 'y', 'schedule': z()}}"
    said = refused(tmp_path, text)
    assert "2 entries" in said
    assert "nothing was written" in said
    assert "  a: " in said
    assert "  b: " in said


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, '{"beat_schedule": 5}', '{"a": NaN}', '{"a": {"task": 1}}'])
def test_json_that_is_no_schedule(tmp_path: Path, text: str) -> None:
    assert refused(tmp_path, text, "beat.json")


@given(
    names=st.lists(st.text(min_size=1).filter(lambda one: "{{" not in one), min_size=1, max_size=4, unique=True),
    values=st.dictionaries(
        st.from_regex(r"[a-z]{1,9}", fullmatch=True), st.text() | st.integers() | st.booleans(), max_size=3
    ),
)
def test_whatever_names_and_values_an_entry_has_the_file_says_exactly_that(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], values: dict[str, Any]
) -> None:
    if "{{" in json.dumps(values):
        return
    path = tmp_path_factory.getbasetemp() / "hostile.json"
    entries = {name: {"task": "x.ping", "schedule": 3600, "kwargs": values} for name in names}
    path.write_text(json.dumps({"beat_schedule": entries}))
    written = yaml.safe_load(write(plan(read_beat(str(path)), PROJECT), PROJECT, str(path)))["deployments"]
    assert len({one["name"] for one in written}) == len(names)
    for one in written:
        assert one.get("parameters", {}) == values
        assert set(one) <= {"name", "entrypoint", "parameters", "schedules", "work_pool"}


@given(st.text(max_size=200) | st.text(alphabet="beat_schedule={}[]()'\":,*1-crontab \n", max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.py"
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(UserError):
        read_beat(str(path))
