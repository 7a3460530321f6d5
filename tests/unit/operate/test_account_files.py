"""A list of accounts is read whole or not at all, says everything that is wrong with it, and never shows a token."""

from __future__ import annotations

import csv
import io
import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aae.errors import UserError
from aae.model import Platform
from aae.operate.account_files import OPTIONAL, REQUIRED, read_accounts

GOOD = {
    "user_email": "ann@example.com",
    "user_name": "Ann",
    "platform": "meta",
    "external_id": "act_1001",
    "access_token": "s3cret-token",
}


def test_a_json_array_and_json_lines_and_csv_say_the_same() -> None:
    rows = [GOOD, {**GOOD, "platform": "google", "external_id": "123-456-7890", "login_customer_id": "999-999-9999"}]
    header = [*REQUIRED, "login_customer_id"]
    table = io.StringIO()
    writer = csv.DictWriter(table, header)
    writer.writeheader()
    writer.writerows(rows)
    as_array = read_accounts(json.dumps(rows), "x")
    as_lines = read_accounts("\n".join(map(json.dumps, rows)), "x")
    as_csv = read_accounts("\ufeff" + table.getvalue(), "x")
    bare = [(r.user_email, r.platform, r.external_id, r.token, r.login_customer_id) for r in as_array]
    assert bare == [(r.user_email, r.platform, r.external_id, r.token, r.login_customer_id) for r in as_lines]
    assert bare == [(r.user_email, r.platform, r.external_id, r.token, r.login_customer_id) for r in as_csv]
    assert [r.external_id for r in as_array] == ["1001", "1234567890"]
    assert as_array[1].login_customer_id == "9999999999"
    assert [r.row for r in as_csv] == [2, 3]


def test_optional_fields_are_understood() -> None:
    (row,) = read_accounts(
        json.dumps(
            [
                {
                    **GOOD,
                    "expires_at": "2026-11-22T06:00:00Z",
                    "refresh_token": "r",
                    "name": "Shop",
                    "currency": "EUR",
                    "timezone": "Europe/Vienna",
                }
            ]
        ),
        "x",
    )
    assert row.token.expires_at == datetime(2026, 11, 22, 6, tzinfo=UTC)
    assert row.token.refresh is not None
    assert row.is_complete
    assert row.platform is Platform.META


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"user_email": "nobody"}, "user_email is not an e-mail address"),
        ({"user_email": "a@b\nBcc: c@d"}, "user_email is not an e-mail address"),
        ({"user_name": ""}, "user_name is missing"),
        ({"user_name": "A\nB"}, "user_name must be one line"),
        ({"user_name": "x" * 201}, "user_name is longer than 200"),
        ({"platform": "myspace"}, "platform must be one of meta, tiktok, google"),
        ({"external_id": "../1"}, "external_id must be the platform's numeric"),
        ({"access_token": "two words"}, "access_token must be at most"),
        ({"access_token": None}, "access_token is missing"),
        ({"access_token": ["x"]}, "access_token must be text"),
        ({"expires_at": "tomorrow"}, "expires_at must be a moment"),
        ({"expires_at": "2026-11-22T06:00:00"}, "expires_at needs its offset"),
        ({"currency": "euro"}, "currency must be a code"),
        ({"timezone": "Mars/Base"}, "timezone must be an IANA name"),
        ({"timezone": "../../etc/passwd"}, "timezone must be an IANA name"),
        ({"login_customer_id": "12"}, "login_customer_id is for Google"),
        ({"acces_token": "x"}, "has 1 unknown field (perhaps access_token misspelt)"),
        ({"s3cret-key": 1, "s3cret-too": 2}, "has 2 unknown fields; known are user_email"),
    ],
)
def test_what_is_wrong_is_said_with_the_row_and_without_the_token(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        read_accounts(json.dumps([GOOD, {**GOOD, "external_id": "7", **change}]), "list.json")
    message = str(caught.value)
    assert f"row 2: {complaint}" in message
    assert "list.json; nothing was imported" in message
    assert "s3cret" not in message
    assert "two words" not in message


@pytest.mark.parametrize("row", ["s3cret-token", ["s3cret-token"], 5, None])
def test_a_row_that_is_no_object_is_never_repeated(row: object) -> None:
    with pytest.raises(UserError, match="row 1: is not an object") as caught:
        read_accounts(json.dumps([row]), "f")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000], ids=["array", "object"])
def test_json_nested_without_end_is_refused_in_words(text: str) -> None:
    with pytest.raises(UserError, match="nothing was imported"):
        read_accounts(text, "f")


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(UserError, match="4 problems") as caught:
        read_accounts(json.dumps([{**GOOD, "platform": "x", "currency": "y"}, GOOD, {**GOOD, "user_name": "Bob"}]), "f")
    assert "row 1: platform" in str(caught.value)
    assert "row 1: currency" in str(caught.value)
    assert "row 3" in str(caught.value)


def test_the_same_account_twice_and_a_user_with_two_names_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        read_accounts(json.dumps([GOOD, {**GOOD, "external_id": "1001", "user_name": "Bob"}]), "f")
    assert "row 2: meta:1001 of ann@example.com is already in row 1" in str(caught.value)
    assert "another user_name than in row 1" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "\n\n"])
def test_an_empty_list_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        read_accounts(text, "f")


def test_broken_json_is_told_by_position_only() -> None:
    with pytest.raises(UserError, match="column") as caught:
        read_accounts('[{"access_token": "s3cret-token" oops}]', "f")
    assert "s3cret" not in str(caught.value)


def test_a_row_of_another_width_is_told() -> None:
    with pytest.raises(UserError, match="row 2: has 2 columns"):
        read_accounts(",".join(REQUIRED) + "\na@b.c,x\n", "f")


@given(st.text())
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    with suppress(UserError):
        assert read_accounts(text, "f")


@given(st.lists(st.dictionaries(st.sampled_from([*REQUIRED, *OPTIONAL]), st.none() | st.booleans() | st.text())))
def test_any_records_are_read_or_refused_in_words(rows: list[dict[str, object]]) -> None:
    with suppress(UserError):
        assert len(read_accounts(json.dumps(rows), "f")) == len(rows)
