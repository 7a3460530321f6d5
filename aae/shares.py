"""Shares: how one job's users are dealt out to several runs that are due at the same time.

``2/4`` is the second of four shares. Which one a user is in depends on the user's id and nothing else: runs that begin
at different moments, on different machines, while accounts come and go, still leave nobody out and take nobody twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from aae.model import Account

PARAMETER: Final = "share"
"""The parameter of a flow that can be dealt out, by which a run knows its share."""

FLOW: Final = "fetch-ad-data"
"""The flow whose schedules are dealt out."""

MOST: Final = 64
"""More shares than this nobody needs: each is a process of its own every time."""

PATTERN: Final = r"^[1-9][0-9]?/[1-9][0-9]?$"

# Fibonacci hashing (2^64 divided by the golden ratio): neighbouring ids land far apart, and any run of ids lies evenly.
_SPREAD: Final = 0x9E3779B97F4A7C15
_WORD: Final = 2**64


def check(share: str) -> str:
    """The share, if it is one.

    Raises:
        ValueError: it is not, in words.
    """
    if re.fullmatch(PATTERN, share):
        number, _, of = share.partition("/")
        if int(number) <= int(of) <= MOST:
            return share
    raise ValueError(f"a share is like 2/4, the second of four, and there are at most {MOST}")


def of_run(parameters: Mapping[str, Any]) -> str | None:
    """The share that a run with these parameters is about; None: of everything, or of nothing that can be."""
    given = parameters.get(PARAMETER)
    try:
        return check(given) if isinstance(given, str) else None
    except ValueError:
        return None


def take(accounts: Iterable[Account], share: str) -> list[Account]:
    """The accounts of the share's users, in the same order."""
    number, _, of = share.partition("/")
    return [account for account in accounts if _place(account.user_id, int(of)) == int(number)]


def _place(user_id: int, of: int) -> int:
    """Which of so many shares the user is in, from 1."""
    return user_id * _SPREAD % _WORD * of // _WORD + 1


def are_apart(one: str | None, other: str | None) -> bool:
    """Whether two runs of a job do different work: as different shares of one division.

    Runs of two divisions (the setting was changed), or a share and everything, are about the same accounts.
    """
    if one is None or other is None or one == other:
        return False
    return one.partition("/")[2] == other.partition("/")[2]


def missing(share: str | None, there: Collection[str | None]) -> list[str | None]:
    """What has to be run for ``share`` of a round of which runs of these shares are ``there``; None is everything.

    A round that was begun in another division is finished in that one: its shares that still waited went with their
    schedules when the number was changed.
    """
    if None in there or share in there:
        return []
    divisions = {one.partition("/")[2] for one in there if one}
    if share and share.partition("/")[2] in divisions:
        return [share]
    rests = ([f"{place}/{of}" for place in range(1, int(of) + 1)] for of in divisions)
    return min(([one for one in rest if one not in there] for rest in rests), key=len, default=[share])


def undealt(slug: str | None) -> str | None:
    """The slug of the declared schedule that a share's slug was made of by :func:`deal`."""
    return slug and re.sub(r"-[1-9][0-9]?-of-[1-9][0-9]?$", "", slug)


def deal(flow: str, parameters: Mapping[str, Any], number: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """What one declared schedule of ``flow`` becomes with so many shares: of each how its slug ends, parameters."""
    if number == 1 or flow != FLOW or PARAMETER in parameters:
        yield "", dict(parameters)
        return
    for place in range(1, number + 1):
        yield f"-{place}-of-{number}", {**parameters, PARAMETER: f"{place}/{number}"}
