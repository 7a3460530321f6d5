"""``aae inspect``, ``run`` and ``import-beat`` at the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
import yaml

from tests.unit.operate.beat.test_import import CUSTOMER
from tests.unit.operate.prefect_fake import Server, serving
from tests.unit.test_cli import Run, _alone, aae

__all__ = ["_alone", "aae"]  # fixtures

HOSTILE = "x\x1b[31m[red]\u202eevil[/]"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    found = Server()
    with serving(found) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        yield found


def finish_the_next(server: Server, **state: object) -> None:
    """The next run that is asked for ends a moment after that."""
    before = len(server.runs)

    def finish() -> None:
        while len(server.runs) == before:
            time.sleep(0.02)
        time.sleep(0.3)
        server.runs[-1]["state"] |= state

    threading.Thread(target=finish, daemon=True).start()


class TestInspect:
    def test_what_runs_is_told_and_that_the_database_was_not_asked(self, aae: Run, server: Server) -> None:
        server.run("RUNNING", start_time=-3)
        said = aae("inspect", "active")
        assert said.code == 0, said.err
        assert "fetch-ad-data/six-hourly" in said.out
        assert "3 min" in said.out
        assert "aae db upgrade" in said.err

    def test_with_tables_the_process_is_told_too(self, aae: Run, server: Server) -> None:
        from aae.settings import load
        from aae.storage import attempts
        from aae.storage.engine import connect

        aae("db", "upgrade")
        run = server.run("RUNNING", start_time=-3)
        engine = connect(load().resolved_database_url)
        process = attempts.Process("m", 4711, 1)
        with engine.begin() as connection:
            token = attempts.take(connection, "fetch-ad-data", run_id=run["id"], process=process)
            assert token is not None
            attempts.beat(connection, token, doing=f"fetch {HOSTILE}")
        engine.dispose()
        said = aae("inspect", "active")
        assert "m pid 4711" in said.out
        assert "fetch x" in said.out
        assert "\x1b" not in said.out
        assert "\u202e" not in said.out
        (found,) = json.loads(aae("inspect", "active", "--json").out)
        assert (found["pid"], found["doing"]) == (4711, f"fetch {HOSTILE}")

    def test_nothing_is_a_sentence_and_an_empty_list(self, aae: Run, server: Server) -> None:
        server.deployments.clear()
        assert "Nothing runs right now." in aae("inspect", "active").out
        assert "aae doctor" in aae("inspect", "scheduled").out
        assert "deploy" in aae("inspect", "registered").out
        assert "deploy" in aae("inspect", "stats").out
        assert json.loads(aae("inspect", "scheduled", "--json").out) == []
        assert json.loads(aae("inspect", "registered", "--json").out) == []

    def test_what_comes_is_limited_and_says_how_much_more_there_is(self, aae: Run, server: Server) -> None:
        for minutes in (1, 2, 3):
            server.run("SCHEDULED", expected_start_time=minutes)
        said = aae("inspect", "scheduled", "--limit", "2")
        assert "... and 1 more" in said.out
        assert said.out.count("six-hourly") == 2

    def test_jobs_are_told_with_words_retries_and_limits(self, aae: Run, server: Server) -> None:
        said = aae("inspect", "registered")
        assert "at 00:00, 06:00, 12:00 and 18:00 UTC" in said.out
        assert "accounts: list of integer" in said.out
        assert "3 retries, 300 s apart; soft limit 3300 s, hard limit 3600 s" in said.out
        first = json.loads(aae("inspect", "registered", "--json").out)[0]
        assert (first["retries"], first["hard_limit_seconds"]) == (3, 3600)

    def test_stats_name_the_workers(self, aae: Run, server: Server) -> None:
        server.paused = True
        said = aae("inspect", "stats")
        assert "Work pool aae: paused. Workers online: w1 (1 offline)." in said.out
        assert json.loads(aae("inspect", "stats", "--json").out)["workers_online"] == ["w1"]

    def test_hostile_names_do_nothing(self, aae: Run, server: Server) -> None:
        server.deployments[0]["name"] = HOSTILE
        server.deployments[0]["entrypoint"] = HOSTILE
        server.run("RUNNING", HOSTILE, start_time=-1, message=HOSTILE)
        server.run("SCHEDULED", HOSTILE, expected_start_time=1, message=HOSTILE)
        server.workers[0]["name"] = HOSTILE
        for question in ("active", "scheduled", "registered", "stats"):
            said = aae("inspect", question)
            assert said.code == 0, said.err
            assert "evil[/]" in said.out
            assert "\x1b" not in said.out
            assert "\u202e" not in said.out

    @pytest.mark.parametrize("question", ["active", "scheduled", "registered", "stats"])
    def test_a_server_that_is_away_is_one_sentence(
        self, aae: Run, monkeypatch: pytest.MonkeyPatch, question: str
    ) -> None:
        said = aae("inspect", question)
        assert said.code == 2
        assert "No Prefect server is known" in said.err
        monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
        said = aae("inspect", question, "--json")
        assert (said.code, said.out) == (1, "")
        assert "Prefect's API at http://127.0.0.1:9/api does not answer (ConnectError)." in said.err

    @pytest.mark.parametrize(
        ("question", "database"), [("active", True), ("scheduled", False), ("registered", False), ("stats", True)]
    )
    def test_the_answer_costs_no_heavy_import(self, aae: Run, server: Server, question: str, database: bool) -> None:
        assert aae("db", "upgrade").code == 0
        heavy = (
            "prefect",
            "alembic",
            "numpy",
            "pandas",
            "pyarrow",
            "jsonschema",
            *(() if database else ("sqlalchemy",)),
        )
        code = (
            f"import sys; from aae import cli; sys.argv = ['aae', 'inspect', '{question}']\n"
            f"cli.app(standalone_mode=False)\n"
            f"print('heavy:', *(one for one in {heavy} if one in sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "heavy:", done.stdout


class TestRun:
    def test_it_is_asked_for_and_named(self, aae: Run, server: Server) -> None:
        said = aae("run", "fetch_ad_data", "--param", "accounts=[1]", "-p", "since=2026-11-01", "-p", "name=5")
        assert said.code == 0, said.err
        assert "Asked for fetch-ad-data/six-hourly: run 0, due now" in said.out
        assert server.asked[0]["parameters"] == {"accounts": [1], "since": "2026-11-01", "name": "5"}

    @pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("10", 10), ("1.5m", 90), ("2h", 7200), ("1d", 86400)])
    def test_in_so_long(self, aae: Run, server: Server, text: str, seconds: int) -> None:
        before = datetime.now(UTC)
        assert aae("run", "fetch_ad_data", "--in", text).code == 0
        due = datetime.fromisoformat(server.asked[0]["state"]["state_details"]["scheduled_time"])
        assert timedelta(seconds=seconds) <= due - before < timedelta(seconds=seconds + 60)

    def test_at_a_moment_utc_if_no_other_zone_is_said(self, aae: Run, server: Server) -> None:
        day = (datetime.now(UTC) + timedelta(days=2)).date()
        assert f"due {day} 14:30:00 UTC" in aae("run", "fetch_ad_data", "--at", f"{day}T14:30").out
        assert f"due {day} 12:30:00 UTC" in aae("run", "fetch_ad_data", "--at", f"{day}T14:30+02:00").out

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["--in", "soon"], "--in needs a span of time"),
            (["--in", "1s", "--at", "2999-01-01T00:00"], "not both"),
            (["--at", "noon"], "--at needs a moment"),
            (["--at", "2020-01-01"], "is over"),
            (["--wait", "-1"], "--wait needs a span"),
            (["--in", "9999d"], "up to a year"),
            (["--param", "accounts"], "--param needs NAME=VALUE"),
            (["--param", "accounts={"], "must be list of integer"),
            (["--param", "accounts=NaN"], "must be list of integer"),
            (["--param", f"accounts={'[' * 100_000}"], "longer than"),
            (["--param", "x=1"], "has no parameter x"),
        ],
    )
    def test_a_mistake_is_one_sentence_and_nothing_is_created(
        self, aae: Run, server: Server, arguments: list[str], complaint: str
    ) -> None:
        said = aae("run", "fetch_ad_data", *arguments)
        assert said.code == 2, said.all
        assert complaint in said.err
        assert not server.asked

    def test_waiting_ends_well_badly_or_in_time(self, aae: Run, server: Server) -> None:
        for state, code in (("COMPLETED", 0), ("FAILED", 1)):
            finish_the_next(server, type=state, name=state.title(), message=HOSTILE)
            said = aae("run", "fetch_ad_data", "--wait", "60")
            assert said.code == code, said.all
            assert f"{state.title()}: x" in said.out
            assert "\x1b[31m" not in said.out
        said = aae("run", "fetch_ad_data", "--wait", "0.2")
        assert said.code == 3
        assert "it is Scheduled and goes on" in said.err

    def test_json_is_one_object_whatever_becomes_of_it(self, aae: Run, server: Server) -> None:
        for arguments in (["--wait", "0.1"], []):
            said = aae("run", "fetch_ad_data", "--json", *arguments)
            found = json.loads(said.out)
            assert found["job"] == "fetch-ad-data/six-hourly"
            assert (found["state"], found["result"]) == ("Scheduled", None)

    def test_a_key_asks_for_one_run_only(self, aae: Run, server: Server) -> None:
        ids = {json.loads(aae("run", "fetch_ad_data", "--key", "k", "--json").out)["id"] for _ in range(2)}
        assert len(ids) == 1

    def test_who_will_have_to_wait_is_told_why(self, aae: Run, server: Server) -> None:
        server.workers[0]["status"] = "OFFLINE"
        assert "No worker is online" in aae("run", "fetch_ad_data").out
        server.paused = True
        assert "aae resume" in aae("run", "fetch_ad_data").out

    def test_a_long_result_is_cut_for_people_and_whole_for_programs(
        self, aae: Run, server: Server, redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        result = {"names": [HOSTILE] * 100}
        with redis.Redis.from_url(redis_url) as client:
            client.set("key", json.dumps(result))
        monkeypatch.setenv("AAE_RESULTS_URL", redis_url)

        data = {"storage_key": "key", "serializer": {"type": "json"}}
        for more in ((), ("--json",)):
            finish_the_next(server, type="COMPLETED", name="Completed", data=data)
            said = aae("run", "fetch_ad_data", "--wait", "60", *more)
            assert said.code == 0, said.all
            if more:
                assert json.loads(said.out)["result"] == result
            else:
                assert "64 lines more: --json prints all of it." in said.out
                assert "\x1b[31m" not in said.out


class TestImportBeat:
    @pytest.fixture
    def beat(self, tmp_path: Path) -> Path:
        path = tmp_path / "celery_app.py"
        path.write_text(CUSTOMER)
        return path

    def test_the_file_goes_to_standard_output_and_words_to_the_other(self, aae: Run, beat: Path) -> None:
        said = aae("import-beat", str(beat))
        assert said.code == 0, said.err
        assert len(yaml.safe_load(said.out)["deployments"]) == 4
        assert "check-token-expiry → check-token-expiry/daily: every day at 02:00 UTC" in said.err

    def test_a_file_that_is_there_is_not_overwritten_unless_forced(self, aae: Run, beat: Path, tmp_path: Path) -> None:
        target = tmp_path / "prefect.yaml"
        target.write_text("mine")
        target.chmod(0o640)
        said = aae("import-beat", str(beat), "--output", str(target))
        assert said.code == 2
        assert "--force" in said.err
        assert target.read_text() == "mine"
        assert aae("import-beat", str(beat), "--output", str(target), "--force").code == 0
        assert len(yaml.safe_load(target.read_text())["deployments"]) == 4
        assert target.stat().st_mode & 0o777 == 0o640, "who may read it stays as it was"
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["celery_app.py", "prefect.yaml"]

    def test_one_entry_that_cannot_be_taken_over_and_nothing_is_written(
        self, aae: Run, beat: Path, tmp_path: Path
    ) -> None:
        beat.write_text(CUSTOMER.replace("crontab(minute=0)", "solar('sunset', 1, 2)"))
        said = aae("import-beat", str(beat), "--output", str(tmp_path / "new.yaml"))
        assert (said.code, said.out) == (2, "")
        assert "detect-anomalies: the sun's position" in said.err
        assert not (tmp_path / "new.yaml").exists()

    def test_what_is_to_be_done_by_hand_is_said(self, aae: Run, beat: Path) -> None:
        beat.write_text("beat_schedule = {'mail': {'task': 'a.send_mail', 'schedule': 3600}}")
        said = aae("import-beat", str(beat))
        assert said.code == 0
        assert "1 of 1 tasks have no flow here" in said.err
        assert "TO DO by hand" in said.out

    def test_a_folder_that_is_not_there(self, aae: Run, beat: Path, tmp_path: Path) -> None:
        said = aae("import-beat", str(beat), "--output", str(tmp_path / "no" / "prefect.yaml"))
        assert said.code == 2
        assert "cannot be written" in said.err


@pytest.mark.parametrize(
    "command", ["inspect active", "inspect scheduled", "inspect registered", "inspect stats", "run"]
)
def test_every_command_explains_itself(aae: Run, command: str) -> None:
    said = aae(*command.split(), "--help")
    assert said.code == 0
    assert len(said.out) > 300
