"""Every account is in one share, whatever else there is; and a share is said in one way."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aae import shares
from aae.model import Account, AccountStatus, Platform

IDS = st.integers(1, 2**63 - 1)


def account(number: int, user_id: int) -> Account:
    return Account(number, user_id, Platform.META, str(number), "name", "EUR", "UTC", AccountStatus.ACTIVE)


def dealt(accounts: list[Account], number: int) -> list[list[Account]]:
    return [shares.take(accounts, f"{place}/{number}") for place in range(1, number + 1)]


@given(users=st.lists(IDS, max_size=60), number=st.integers(1, shares.MOST))
def test_every_account_is_in_one_share_and_a_users_accounts_are_together(users: list[int], number: int) -> None:
    accounts = [account(place, user) for place, user in enumerate(users, 1)]
    hands = dealt(accounts, number)
    assert sorted(one.id for hand in hands for one in hand) == [one.id for one in accounts]
    for hand in hands:
        assert [one.id for one in hand] == sorted(one.id for one in hand)
        assert {one.id for one in hand} == {one.id for one in accounts if one.user_id in {own.user_id for own in hand}}


@given(users=st.sets(IDS, max_size=30), others=st.sets(IDS, max_size=30), number=st.integers(1, shares.MOST))
def test_who_comes_or_goes_moves_nobody_else(users: set[int], others: set[int], number: int) -> None:
    few = [account(place, user) for place, user in enumerate(sorted(users), 1)]
    more = few + [account(1000 + place, user) for place, user in enumerate(sorted(others - users))]
    for before, after in zip(dealt(few, number), dealt(more, number), strict=True):
        assert before == [one for one in after if one.id < 1000]


@given(first=st.integers(1, 10**6), users=st.integers(1, 800), number=st.integers(1, shares.MOST))
def test_users_who_signed_up_one_after_the_other_are_dealt_out_evenly(first: int, users: int, number: int) -> None:
    accounts = [account(place, first + place) for place in range(users)]
    counts = Counter({place: len(hand) for place, hand in enumerate(dealt(accounts, number))})
    assert max(counts.values()) - users / number < 3


@pytest.mark.parametrize("right", ["1/1", "2/4", "64/64", "9/10"])
def test_a_share_is_written_in_one_way(right: str) -> None:
    assert shares.check(right) == right
    assert shares.of_run({"share": right, "accounts": [1]}) == right


@pytest.mark.parametrize(
    "wrong", ["", "0/4", "5/4", "1/65", "02/4", "2/4 ", "2 / 4", "-1/4", "1/0", "\u0662/\u0664", "2/4\n"]
)
def test_what_is_none_is_refused_in_a_sentence(wrong: str) -> None:
    with pytest.raises(ValueError, match="a share is like 2/4, the second of four"):
        shares.check(wrong)
    assert shares.of_run({"share": wrong}) is None


def test_runs_do_different_work_only_as_different_shares_of_one_division() -> None:
    assert shares.are_apart("1/4", "2/4")
    same = [("1/4", "1/4"), ("1/4", "1/2"), ("1/4", None), (None, "1/4"), (None, None)]
    assert not any(shares.are_apart(one, other) for one, other in same)


@pytest.mark.parametrize(
    ("share", "there", "left"),
    [
        (None, [], [None]),
        ("2/3", [], ["2/3"]),
        ("2/3", ["1/3", "3/3"], ["2/3"]),
        ("2/3", ["1/3", "2/3"], []),
        ("2/3", [None], []),
        ("2/3", ["1/3", None], []),
        # The number was changed in the middle of the round.
        (None, ["1/2"], ["2/2"]),
        (None, ["1/2", "2/2"], []),
        ("1/2", ["1/4", "3/4"], ["2/4", "4/4"]),
        ("2/2", ["1/4", "3/4"], ["2/4", "4/4"]),
        ("2/2", ["1/3", "2/3", "3/3"], []),
        ("2/2", ["1/2", "3/4"], ["2/2"]),
        ("2/5", ["1/4", "1/2"], ["2/2"]),
    ],
)
def test_of_a_round_what_is_not_there_is_missing_in_the_division_it_was_begun_in(
    share: str | None, there: list[str | None], left: list[str | None]
) -> None:
    assert shares.missing(share, there) == left


@given(data=st.data(), before=st.integers(1, 8), after=st.integers(1, 8))
def test_what_is_missing_leaves_nobody_out_whatever_the_number_was_changed_to(
    data: st.DataObject, before: int, after: int
) -> None:
    def names(number: int) -> list[str | None]:
        return [None] if number == 1 else [f"{place}/{number}" for place in range(1, number + 1)]

    there = data.draw(st.sets(st.sampled_from(names(before))))
    done = there.union(*(shares.missing(share, there) for share in names(after)))
    accounts = [account(place, place) for place in range(50)]
    assert set(accounts) == {
        one for share in done for one in (accounts if share is None else shares.take(accounts, share))
    }


@given(st.sampled_from(["six-hourly", "daily-2-of", "x-1-of-100"]), st.integers(2, shares.MOST))
def test_the_schedule_that_was_dealt_out_is_known_by_its_shares(slug: str, number: int) -> None:
    assert (
        {shares.undealt(slug + ending) for ending, _ in shares.deal(shares.FLOW, {}, number)}
        == {shares.undealt(slug)}
        == {slug}
    )
