"""Nothing that is put into Redis is ever executed: as a result of a step it counts as not there."""

from __future__ import annotations

import base64
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect._internal.result_records import ResultRecord, ResultRecordMetadata
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore
from prefect.serializers import JSONSerializer

import tasks.limits  # noqa: F401 - what every step imports, and with it the guard
from aae.jobs.fetch import AccountOutcome
from aae.model import Platform
from tasks.results import ForeignResult, check

JSON = JSONSerializer().model_dump()


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def record(result: Any, serializer: Any = JSON, **more: Any) -> bytes:
    return json.dumps({"metadata": {"serializer": serializer, "storage_key": "k"}, "result": result, **more}).encode()


def hostile(path: Path) -> dict[str, bytes]:
    """Records each of which, as Prefect reads them by itself, would make a folder at ``path``."""
    pickled = pickle.dumps(Touch(path))
    told = base64.b64encode(pickled).decode()
    call = {"__class__": "subprocess.getoutput", "data": {"cmd": f"mkdir '{path}'"}}
    as_pickle = {"type": "pickle", "picklelib": "pickle"}
    return {
        "a pickle": pickled,
        "a record with a pickle": record(told, as_pickle),
        "a record of old": json.dumps({"serializer": as_pickle, "data": told}).encode(),
        "a compressed one": record(told, {"type": "compressed/pickle"}),
        "a compressed one of pickles": record(told, {"type": "compressed", "serializer": as_pickle}),
        "a function as a class": record(json.dumps(call)),
        "the same, deep": record(json.dumps([{"x": [call]}])),
        "the same, in the record": json.dumps({"metadata": call, "result": "1"}).encode(),
        "a function as a decoder": record(
            json.dumps({"mkdir": 1, str(path): 2}), JSON | {"object_decoder": "subprocess.Popen"}
        ),
        "a function of ours": record(json.dumps({"__class__": "aae.cli.main", "data": {}})),
        "an exception": record(json.dumps({"__exc_type__": "SystemExit", "message": "x"})),
    }


NAMES = sorted(hostile(Path("x")))


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_record_is_not_executed_and_counts_as_not_there(name: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    storage = LocalFileSystem(basepath=str(tmp_path / "results"))
    storage.write_path("key", hostile(trace)[name])
    store = ResultStore(result_storage=storage, serializer=JSONSerializer())
    assert not store.exists("key")
    with pytest.raises(ForeignResult):
        store.read("key")
    assert not trace.exists()


def test_the_same_records_are_dangerous_without_the_guard(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    unguarded = ResultRecord.deserialize.__wrapped__  # type: ignore[attr-defined]
    for number, name in enumerate(("a record with a pickle", "a function as a class")):
        trace = tmp_path / str(number)
        unguarded(hostile(trace)[name])
        assert trace.exists(), name


def outcome() -> AccountOutcome:
    values: dict[str, Any] = dict.fromkeys(AccountOutcome.__dataclass_fields__)
    defaults = {name: 0 for name, field in AccountOutcome.__dataclass_fields__.items() if str(field.type) == "int"}
    return AccountOutcome(
        **values
        | defaults
        | {"platform": Platform.META, "account": "meta:1", "name": "=1+1", "outcome": "stored", "retry": False}
        | {"seconds": 1.5, "calls_by": {"metrics": 3, "totals": 1}}
    )


@pytest.mark.parametrize("value", [None, 5, "x", [1, {"a": None}], [outcome(), outcome()], {"meta": outcome()}])
def test_what_steps_return_comes_back_as_it_was(value: Any, tmp_path: Path) -> None:
    store = ResultStore(
        result_storage=LocalFileSystem(basepath=str(tmp_path)),
        serializer=JSONSerializer(),
        cache_result_in_memory=False,
    )
    store.write(value, "key")
    assert store.exists("key")
    assert store.read("key").result == value


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_at_all_are_no_record(content: bytes) -> None:
    with pytest.raises(ForeignResult):
        check(content)


def test_runaway_nesting_is_no_record() -> None:
    with pytest.raises(ForeignResult):
        check(b"[" * 100_000)
    with pytest.raises(ForeignResult):
        check(record("[" * 100_000))


def test_a_record_that_prefect_writes_is_one_that_we_accept() -> None:
    written = ResultRecord(result={"a": 1}, metadata=ResultRecordMetadata(serializer=JSONSerializer()))
    check(written.serialize())
