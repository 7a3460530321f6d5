"""Each benchmark runs at a tiny size, here and now, and ends with its figures as one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import bench, detection, fetch, many, report, storing
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


def test_fetching_stores_everything_and_what_the_peer_finds_is_the_same_number_of_rows(run: Run) -> None:
    figures = run(fetch.main, "--users", "1", "--ads", "1", "--days", "1", "--rounds", "1", "--database", "sqlite")
    assert figures["not_stored"] == 0
    assert figures["rows"] > 0
    assert {each["rows"] for each in figures["runs"].values()} == {figures["rows"]}
    assert all(each["seconds"] > 0 for each in figures["runs"].values())
    assert all(seconds >= 0 for seconds in figures["split_seconds"].values())


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
