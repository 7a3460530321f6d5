"""Accounts and what is in them: campaigns, ad sets, ads, and the leaves that deliver."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from functools import cached_property
from typing import Final

import numpy as np

from aae.model import Level, Platform
from aae.sandbox.ledger import Facts, IntArray, Ledger

WHOLE_UNITS: Final = frozenset({"CLP", "COP", "CRC", "HUF", "ISK", "IDR", "JPY", "KRW", "PYG", "TWD", "VND"})
"""Currencies that Meta counts in whole units (offset 1); all others in hundredths. Meta's table, not ISO 4217's."""


def money_quantum(currency: str) -> int:
    """The smallest amount that platforms spend or budget in this currency, in micros."""
    return 1_000_000 if currency in WHOLE_UNITS else 10_000


GONE: Final = frozenset({"ARCHIVED", "DELETED"})
"""Effective statuses that Meta's listings and insights leave out unless they are named."""


class Status(StrEnum):
    """What the advertiser did with an entity."""

    ACTIVE = "active"
    PAUSED = "paused"
    ARCHIVED = "archived"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class User:
    """A customer of the web platform, who owns ad accounts."""

    index: int
    email: str
    name: str


@dataclass(frozen=True, slots=True)
class Entity:
    """A campaign, ad set or ad. ``parent`` is the external id above; ``created`` is aware UTC.

    ``channel`` is the platform's own objective or channel type (campaigns only). ``tells_conversions`` is False
    where the platform reports no purchases at all (TikTok answers ``"-"``).
    """

    level: Level
    external_id: str
    parent: str | None
    name: str
    status: Status
    created: datetime
    daily_budget_micros: int | None = None
    channel: str | None = None
    tells_conversions: bool = True


@dataclass(frozen=True, slots=True)
class Leaf:
    """What delivers: an ad (all three indices), or a campaign without ads (the other two are None)."""

    campaign: int
    ad_set: int | None
    ad: int | None


@dataclass(frozen=True)
class AdAccount:
    """One ad account with its entities and its ledger.

    ``manager`` is the Google manager that access goes through. ``enabled`` is False for a cancelled account.
    Leaves stand in the order of their campaigns, ad sets and ads.
    """

    user: int
    platform: Platform
    external_id: str
    name: str
    currency: str
    timezone: str
    campaigns: tuple[Entity, ...]
    ad_sets: tuple[Entity, ...]
    ads: tuple[Entity, ...]
    leaves: tuple[Leaf, ...]
    ledger: Ledger
    manager: str | None = None
    enabled: bool = True

    @cached_property
    def by_id(self) -> dict[str, Entity]:
        """Every entity by its external id."""
        return {entity.external_id: entity for entity in (*self.campaigns, *self.ad_sets, *self.ads)}

    def entities(self, level: Level) -> tuple[Entity, ...]:
        """The entities of one level."""
        return {Level.CAMPAIGN: self.campaigns, Level.AD_SET: self.ad_sets, Level.AD: self.ads}[level]

    def leaf_entity(self, leaf: Leaf) -> Entity:
        """The entity that a leaf is."""
        return self.campaigns[leaf.campaign] if leaf.ad is None else self.ads[leaf.ad]

    def campaign_of(self, entity: Entity) -> Entity:
        """The campaign above an entity, or the entity itself."""
        while entity.parent is not None:
            entity = self.by_id[entity.parent]
        return entity

    @cached_property
    def effective_statuses(self) -> dict[str, str]:
        """Each entity's status in Meta's words: its own, or what keeps the one above it from running."""
        found: dict[str, str] = {}
        for entity in (*self.campaigns, *self.ad_sets, *self.ads):
            above = found[entity.parent] if entity.parent else "ACTIVE"
            if entity.status is not Status.ACTIVE or above == "ACTIVE":
                found[entity.external_id] = entity.status.upper()
            elif above in GONE:
                found[entity.external_id] = above
            else:
                by_campaign = entity.level is Level.AD_SET or above == "CAMPAIGN_PAUSED"
                found[entity.external_id] = "CAMPAIGN_PAUSED" if by_campaign else "ADSET_PAUSED"
        return found

    @cached_property
    def above_ads(self) -> dict[Level, IntArray]:
        """For every ad the index of its campaign, of its ad set, and its own."""
        place = {entity.external_id: n for level in Level for n, entity in enumerate(self.entities(level))}
        ad_sets = [self.by_id[str(ad.parent)] for ad in self.ads]
        return {
            Level.CAMPAIGN: np.array([place[str(ad_set.parent)] for ad_set in ad_sets], np.int64),
            Level.AD_SET: np.array([place[ad_set.external_id] for ad_set in ad_sets], np.int64),
            Level.AD: np.arange(len(self.ads)),
        }

    def facts(self, level: Level | None, since: date, until: date, at: datetime, *, hourly: bool) -> Facts:
        """The ledger's rows by entity of ``level`` (``group`` is the index into :meth:`entities`).

        None adds up the whole account (group 0). Campaigns without ads are absent below campaign level.
        """
        facts = self.ledger.facts(since, until, at, self._groups[level], hourly=hourly)
        return facts if level is None else facts.take(facts.group < len(self.entities(level)))

    def leaf_facts(self, since: date, until: date, at: datetime, *, hourly: bool) -> Facts:
        """The ledger's rows by leaf (``group`` is the index into ``leaves``)."""
        return self.ledger.facts(since, until, at, np.arange(len(self.leaves)), hourly=hourly)

    @cached_property
    def _groups(self) -> dict[Level | None, IntArray]:
        """The group of every leaf; one past the last entity where the level does not apply."""

        def column(values: list[int | None], beyond: int) -> IntArray:
            return np.array([beyond if value is None else value for value in values], np.int64)

        return {
            None: np.zeros(len(self.leaves), np.int64),
            Level.CAMPAIGN: column([leaf.campaign for leaf in self.leaves], len(self.campaigns)),
            Level.AD_SET: column([leaf.ad_set for leaf in self.leaves], len(self.ad_sets)),
            Level.AD: column([leaf.ad for leaf in self.leaves], len(self.ads)),
        }
