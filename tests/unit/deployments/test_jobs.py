"""A wrong entry in ``prefect.yaml`` is refused in a sentence, with the whole file, before anything is applied."""

from __future__ import annotations

from pathlib import Path

import pytest

from aae.errors import UserError
from aae.operate.schedule import read_jobs
from aae.settings import AlertSettings, EmailSettings, Settings
from deployments import declared, jobs
from deployments.apply import _contains

ROOT = Path(__file__).parents[3]


def test_the_projects_own_file_is_right() -> None:
    found = jobs.read(ROOT, "aae")
    assert len(found) == 4
    for one in found:
        assert declared.TAG in one.body["tags"]
        assert "{{ $AAE_PROJECT_DIR }}" in str(one.body["pull_steps"]), "each worker fills in its own folder"


def test_only_the_fetch_is_dealt_out_each_share_by_a_schedule_of_its_own_at_the_same_times() -> None:
    whole = {one.full_name: one for one in jobs.read(ROOT, "aae")}
    dealt = {one.full_name: one for one in jobs.read(ROOT, "aae", 3)}
    fetch = dealt.pop("fetch-ad-data/six-hourly")
    (before,) = whole.pop("fetch-ad-data/six-hourly").schedules.values()
    assert dealt == whole
    assert {slug: one["parameters"] for slug, one in fetch.schedules.items()} == {
        "six-hourly-1-of-3": {"share": "1/3"},
        "six-hourly-2-of-3": {"share": "2/3"},
        "six-hourly-3-of-3": {"share": "3/3"},
    }
    for slug, one in fetch.schedules.items():
        assert one == before | {"slug": slug, "parameters": one["parameters"]}
    (planned,) = (job for job in read_jobs(ROOT, 3) if job.name == "fetch-ad-data/six-hourly")
    assert [(one.slug, one.parameters) for one in planned.schedules] == [
        (slug, one["parameters"]) for slug, one in fetch.schedules.items()
    ], "the doctor expects what is deployed"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("tags: [aae, fetch]", "tag: [aae]", "means nothing here: tag"),
        ("tags: [aae, fetch]", "concurrency_limit: 1", "concurrency_limit is not used here"),
        ("tags: [aae, fetch]", "parameters: {acounts: [1]}", "no parameter acounts"),
        ("tags: [aae, fetch]", "parameters: {dry_run: [1]}", "parameters are wrong"),
        ("fetch_ad_data", "fetch_add_data", "cannot be loaded"),
        ('"0 */6 * * *"', '"0 */6 * *"', "a schedule of it is wrong"),
        ("- slug: six-hourly", "- {}", "wrong"),
        ("name: aae\n", "name: other\n", "must be aae"),
        ("deployments:", "deployment:", "must have a list of deployments"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, before: str, after: str, said: str) -> None:
    text = (ROOT / "prefect.yaml").read_text()
    assert before in text
    (tmp_path / "prefect.yaml").write_text(text.replace(before, after, 1))
    for folder in ("flows", "tasks", "aae"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    with pytest.raises(UserError, match=r"prefect\.yaml") as refused:
        jobs.read(tmp_path, "aae")
    assert said in str(refused.value) or said == "wrong"


def test_what_the_server_adds_is_no_difference_and_what_it_lacks_is() -> None:
    assert _contains({"a": 1, "id": 2}, {"a": 1})
    assert not _contains({"id": 2}, {"a": 1})
    assert not _contains([1, 2], [1])


@pytest.mark.parametrize(
    ("smtp", "url"),
    [
        ("smtp://host:25?tls=off", "mailto://host:25?smtp=host&mode=insecure"),
        ("smtps://me:p%40ss@host", "mailtos://me:p%40ss@host:465?smtp=host&mode=ssl"),
        ("smtp://me:p@host:587", "mailtos://me:p@host:587?smtp=host&mode=starttls"),
    ],
)
def test_our_mail_server_is_written_as_apprise_does(smtp: str, url: str) -> None:
    settings = Settings(
        alerts=AlertSettings(email_to="ops@aae.example"), email=EmailSettings(smtp_url=smtp), _env_file=None
    )  # type: ignore[call-arg,arg-type]
    assert declared.email_url(settings).startswith(url)


@pytest.mark.parametrize(
    ("alerts", "said"),
    [
        ({"email_to": "ops@aae.example"}, "needs a mail server"),
        ({"apprise_urls": "nonsense://s3cret"}, "the address number 1 is not a URL that Apprise knows"),
    ],
)
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # a plugin of Apprise's
def test_a_channel_that_cannot_work_is_refused_without_its_address(alerts: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        declared.channels(Settings(alerts=alerts, _env_file=None))  # type: ignore[call-arg,arg-type]
    assert "s3cret" not in str(refused.value)


def test_every_alert_has_a_page_that_says_what_it_means_what_to_do_first_and_when_it_is_over() -> None:
    for kind in declared.ALERTS:
        page = (ROOT / declared.runbook(kind)).read_text()
        assert all(part in page for part in ("What it means", "First command", "It is over when")), kind
