"""Each benchmark runs at a tiny size, here and now, and ends with its figures as one line of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from aae.model import Platform
from benchmarks import bench, detection, fetch, many, parsing, report, storing, tape
from tests import servers
from tests.conftest import NEEDS_MARIADB

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    # Starting processes is most of a tiny run's time, and their coverage and warnings would be lost.
    monkeypatch.setattr(bench, "apart", lambda work, *arguments: work(*arguments))

    def go(main: Callable[[list[str]], None], *arguments: str) -> dict[str, Any]:
        main(list(arguments))
        *shown, last = capsys.readouterr().out.rstrip("\n").split("\n")
        assert any("│" in line for line in shown), "no table"
        figures: dict[str, Any] = json.loads(last)
        return figures

    return go


def test_fetching_stores_everything_by_the_fewest_calls_and_the_peer_finds_the_same_number_of_rows(
    run: Run, tmp_path: Path
) -> None:
    small = ("--accounts", "6", "--ads", "1", "--days", "1", "--platforms", "meta", "tiktok", "google")
    told = tmp_path / "figures.json"
    figures = run(fetch.main, *small, "--only", "ours", "again", "plain", "--database", "sqlite", "--json", str(told))
    assert figures["not_stored"] == 0
    assert {each["rows"] for each in figures["runs"].values()} == {figures["runs"]["ours"]["rows"]}
    assert figures["runs"]["ours"]["rows"] > 0
    assert all(each["seconds"] > 0 and not each["passed_on"] for each in figures["runs"].values())
    assert figures["runs"]["ours"]["calls"] == figures["minimum_calls"] > figures["runs"]["plain"]["calls"]
    assert figures["limit"] == "to_sql"
    assert all(speed > 0 for speed in figures["speeds"].values())
    assert all(seconds >= 0 for seconds in figures["split_seconds"].values())
    assert json.loads(told.read_text())["runs"].keys() == figures["runs"].keys()


def test_parsing_tells_what_a_row_of_each_platform_costs(run: Run) -> None:
    figures = run(parsing.main, "--ads", "1", "--rounds", "1")
    assert set(figures["platforms"]) == set(Platform)
    for one in figures["platforms"].values():
        assert one["rows"] > 0
        assert one["all"] > one["decoding"] > 0


def test_a_peer_that_is_not_installed_is_left_out_and_said(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    small = ("--accounts", "1", "--ads", "1", "--days", "1", "--database", "sqlite")
    figures = run(fetch.main, *small, "--only", "plain", "dlt")
    assert list(figures["runs"]) == ["plain"]
    assert figures["missing"] == {"dlt": "dlt is left out: it is not installed; make peers"}


def test_the_same_again_needs_a_first_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fetch.main(["--only", "again", "ours"])
    assert "'again' needs 'ours' before it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("peer", "database"), [("dlt", "sqlite"), pytest.param("singer", "mariadb", marks=pytest.mark.mysql)]
)
def test_an_installed_peer_finds_what_the_plain_script_finds(run: Run, peer: str, database: str) -> None:
    if lacking := fetch._lacking(peer, database):
        pytest.skip(lacking)
    if database == "mariadb" and servers.mysql_daemon() is None:
        pytest.skip(NEEDS_MARIADB)
    small = ("--accounts", "4", "--ads", "1", "--days", "1", "--platforms", "meta", "tiktok", "google")
    figures = run(fetch.main, *small, "--database", database, "--only", "plain", peer)
    assert figures["runs"][peer]["rows"] == figures["runs"]["plain"]["rows"] > 0
    assert figures["runs"][peer]["calls"] == figures["runs"]["plain"]["calls"]
    assert figures["runs"][peer]["passed_on"] == 0


def test_what_cannot_run_on_sqlite_is_left_out_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_python", lambda peer: Path(sys.executable))
    small = ("--accounts", "1", "--ads", "1", "--days", "1", "--database", "sqlite")
    figures = run(fetch.main, *small, "--only", "plain", "singer")
    assert list(figures["runs"]) == ["plain"]
    assert "SQLite's takes none" in figures["missing"]["singer"]


def test_what_is_stored_from_the_tape_is_what_is_stored_from_the_sandbox(tmp_path: Path) -> None:
    with (
        servers.redis_server() as cache,
        bench.sandbox(fetch.NOW, seed=3, users=2, days=4, campaigns=1, ads=1) as url,
        tape.running(url) as played,
    ):
        templates = fetch._accounts(url)
        people, copies = fetch._copied(templates, 2 * len(templates))
        played.copy(copies)

        def stored(address: str, accounts: list[dict[str, Any]], name: str) -> dict[str, list[tuple[Any, ...]]]:
            settings = fetch._product(address, cache, tmp_path, accounts, f"sqlite:///{tmp_path / name}")
            fetch._forget(settings)
            assert fetch.fetch_all(settings, fetch.UNTIL).unhappy == ()
            return _numbers(settings.resolved_database_url)

        truth = stored(url, templates, "truth.db")
        assert stored(played.url, templates, "recorded.db") == truth
        recorded = played.heard()
        played.forget()
        from_tape = stored(played.url, people, "played.db")
        again = played.heard()

    assert recorded.passed == len(recorded.asked) > 0, "the first time is the sandbox's"
    assert again.passed == 0
    assert len(again.asked) == 2 * len(recorded.asked)
    assert {one: from_tape[one] for one in truth} == truth
    assert {copy: from_tape[copy] for copy in copies} == {copy: truth[one] for copy, one in copies.items()}


def _numbers(database: str) -> dict[str, list[tuple[Any, ...]]]:
    """All that is stored of each account by day and by hour, by the platforms' own ids."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    with servers.connected(database) as engine, engine.connect() as connection:
        for table, hour in (("ad_metrics_daily", "NULL"), ("ad_metrics_hourly", "local_hour")):
            for account, *row in connection.exec_driver_sql(
                f"SELECT a.external_id, e.level, e.external_id, local_date, {hour}, impressions, clicks, spend, "
                f"conversions, revenue FROM {table} m JOIN ad_accounts a ON a.id = m.account_id "
                "JOIN entities e ON e.id = m.entity_id ORDER BY 1, 2, 3, 4, 5"
            ):
                found.setdefault(account, []).append((table, *row))
    return found


def test_replaying_brings_every_answer_whole() -> None:
    with bench.sandbox(fetch.NOW, seed=3, users=1, days=4, campaigns=1, ads=1) as url, tape.running(url) as played:
        (meta,) = (one for one in fetch._accounts(url) if one["platform"] == "meta")
        target = f"/v26.0/act_{meta['external_id']}/campaigns?limit=1&fields=id,name"
        headers = {"Authorization": f"Bearer {meta['access_token']}"}
        first = httpx.get(f"{played.url}{target}", headers=headers)
        second = httpx.get(first.json()["paging"]["next"], headers=headers)
        heard = played.heard()
        assert second.url.copy_with(query=None) == first.url.copy_with(query=None), "links lead back to the tape"
        assert [one.target for one in heard.asked] == [target, second.url.raw_path.decode()]
        assert tape.replay(played.url, heard.asked, connections=1) == len(first.content) + len(second.content)


@pytest.mark.parametrize(
    ("platform", "calls"),
    [("meta", 1 + 1 + 2 + 1 + 3 + 1 + 1), ("tiktok", 1 + 1 + 1 + 1 + 2 + 1 + 1), ("google", 3 + 2 * 3 + 1)],
)
def test_the_fewest_calls_are_the_pages_of_every_listing_and_slice_and_the_totals(platform: str, calls: int) -> None:
    assert fetch.minimum_calls(Platform(platform), [3, 500, 501], [0, 1001, 500], 1) == calls


def test_detection_gives_figures_for_every_size(run: Run) -> None:
    figures = run(detection.main, "--accounts", "1", "2", "--campaigns", "2", "--ads", "1", "--repeat", "1")
    assert [size["accounts"] for size in figures["sizes"]] == [1, 2]
    assert all(size["seconds"] > 0 and size["naive_seconds"] > 0 for size in figures["sizes"])


def test_reports_give_figures_for_every_size_and_charts_are_what_takes_longer(run: Run) -> None:
    figures = run(report.main, "--accounts", "1", "--campaigns", "1", "--ads", "1", "--repeat", "1")
    (size,) = figures["sizes"]
    assert size["parts_seconds"]["HTML with charts"] > size["parts_seconds"]["HTML without"] > 0


def test_many_accounts_give_figures_for_every_size_and_all_of_them_are_stored(run: Run) -> None:
    figures = run(many.main, "--accounts", "1", "2", "--days", "2", "--ads", "1")
    assert [size["accounts"] for size in figures["sizes"]] == [1, 2]
    assert all(size["not_stored"] == 0 and size["mb_per_account_month"] > 0 for size in figures["sizes"])


@pytest.mark.parametrize("database", ["sqlite", pytest.param("mariadb", marks=pytest.mark.mysql)])
def test_storing_gives_figures_beside_the_limit_of_the_database(run: Run, database: str) -> None:
    if database == "mariadb" and servers.mysql_daemon() is None:
        pytest.skip(NEEDS_MARIADB)
    figures = run(storing.main, "--ads", "30", "--days", "1", "--rounds", "1", "--database", database)
    assert figures["rows"] == 30 * 24
    assert figures["limit"] == ("upsert" if database == "sqlite" else "LOAD DATA")
    assert figures["runs"][figures["limit"]]["times_limit"] == 1
    assert {"first", "again", "changed", "upsert", "to_sql"} <= set(figures["runs"])


@pytest.mark.parametrize("main", [fetch.main, detection.main, report.main, many.main, storing.main])
def test_help_says_what_is_compared_with_what(
    main: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "beside" in capsys.readouterr().out


def test_without_mariadb_sqlite_is_taken_and_it_is_said_aloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("tests.servers.mysql_daemon", lambda: None)
    with bench.databases("auto", tmp_path) as databases:
        assert databases.kind == "SQLite (mariadbd is not installed)"
        assert databases.fresh() != databases.fresh()
    with pytest.raises(SystemExit, match="install mariadb-server"), bench.databases("mariadb", tmp_path):
        pass
