"""The world that the sandbox answers from: users, accounts, their history and what goes wrong, all from one seed.

The same seed and anchor always make the same world, whatever the clock says and however far ahead it is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np

from aae.model import Level, Platform
from aae.sandbox.app import APP, AppCredentials
from aae.sandbox.entities import AdAccount, Entity, Leaf, Status, User, money_quantum
from aae.sandbox.incidents import EFFECTS, SIZES, Incident, Plan, Trap, TrapKind, plans
from aae.sandbox.nature import Business, Habit, Influence, hours, simulate
from aae.sandbox.tokens import Grant, Kind, Mint

META_TOKEN_SECONDS: Final = 5_183_944
"""Life of an exchanged Meta token: about 60 days."""

GOOGLE_TOKEN_SECONDS: Final = 3599
"""Life of a Google access token."""


@dataclass(frozen=True, slots=True)
class Seat:
    """An account of the cast. ``login``: fresh, expiring (within 24 h of the anchor) or revoked."""

    platform: Platform
    currency: str
    timezone: str
    login: str = "fresh"
    managed: bool = False


_CAST: Final[tuple[tuple[str, str, tuple[Seat, ...]], ...]] = (
    (
        "ada",
        "Ada Winter",
        (
            Seat(Platform.META, "USD", "America/New_York", login="expiring"),
            Seat(Platform.TIKTOK, "USD", "America/Los_Angeles"),
            Seat(Platform.GOOGLE, "USD", "America/New_York", managed=True),
        ),
    ),
    (
        "kenji",
        "Kenji Mori",
        (Seat(Platform.META, "JPY", "Asia/Tokyo"), Seat(Platform.GOOGLE, "JPY", "Asia/Tokyo")),
    ),
    (
        "priya",
        "Priya Nair",
        (Seat(Platform.TIKTOK, "INR", "Asia/Kolkata"), Seat(Platform.GOOGLE, "INR", "Asia/Kolkata", managed=True)),
    ),
    (
        "lea",
        "Léa Müller",
        (
            Seat(Platform.META, "EUR", "Europe/Paris"),
            Seat(Platform.TIKTOK, "GBP", "Europe/London"),
            Seat(Platform.GOOGLE, "GBP", "Europe/London", login="revoked"),
        ),
    ),
)
"""Who is in the default world; more users repeat the cast under other names."""

_PRICE_LEVEL: Final = {"USD": 1.0, "EUR": 0.92, "GBP": 0.8, "JPY": 150.0, "INR": 83.0}


@dataclass(frozen=True, slots=True)
class Sketch:
    """A kind of campaign. ``share`` is its delivery relative to a big one; it lives from ``begins`` to ``ends`` days
    after the anchor (None: always)."""

    name: str
    share: float
    status: Status = Status.ACTIVE
    begins: float | None = None
    ends: float | None = None
    ads: bool = True
    tells_conversions: bool = True


_BIG: Final = (
    Sketch("Winter sale | broad", 1.0),
    Sketch("Retargeting - cart", 0.8),
    Sketch('Lookalike <b>1%</b> & "friends"', 0.6),
    Sketch("=HYPERLINK(0) prospecting 🎁", 0.5),
    Sketch("Brand, exact", 0.45),
)
"""Campaigns with enough volume to judge. Names are as hostile as users can make them."""

_SMALL: Final = (
    Sketch("Niche test", 0.012),
    Sketch("Spring launch", 0.25, begins=-2.2),
    Sketch("Autumn, paused", 0.3, Status.PAUSED, ends=-9.3),
    Sketch("Old promo", 0.3, Status.DELETED, ends=-16.4),
)
_ARCHIVED: Final = Sketch("Last summer", 0.2, Status.ARCHIVED, ends=-30.0)
_REACH: Final = Sketch("Reach only", 0.15, tells_conversions=False)
_PMAX: Final = Sketch("Performance Max", 0.7, ads=False)

_TITLE: Final = {Platform.META: "Meta", Platform.TIKTOK: "TikTok", Platform.GOOGLE: "Google"}
_CHANNEL: Final = {Platform.META: "OUTCOME_SALES", Platform.TIKTOK: "WEB_CONVERSIONS", Platform.GOOGLE: "SEARCH"}


@dataclass(frozen=True)
class World:
    """Everything there is. ``accounts`` holds also what no one connected (a cancelled customer)."""

    seed: int
    anchor: datetime
    users: tuple[User, ...]
    accounts: tuple[AdAccount, ...]
    incidents: tuple[Incident, ...] = ()
    traps: tuple[Trap, ...] = ()
    expiring: frozenset[tuple[int, Platform]] = frozenset()
    revoked: frozenset[tuple[int, Platform]] = frozenset()
    app: AppCredentials = field(default=APP)

    @classmethod
    def generate(
        cls,
        seed: int,
        now: datetime,
        *,
        days: int = 60,
        ahead: int = 30,
        users: int = 4,
        big_campaigns: int = 3,
        ads_per_ad_set: int = 3,
    ) -> World:
        """A world with history from ``days`` before the anchor ``now`` (aware) to ``ahead`` days after it.

        ``users`` take the parts of a cast of four, in turn; ``big_campaigns`` (1 to 5) and ``ads_per_ad_set`` set
        the size of each account. Raises ValueError on a naive ``now``.
        """
        if now.tzinfo is None:
            raise ValueError("the world needs an aware moment to be anchored at")
        return _Maker(seed, now.astimezone(UTC), days=days, ahead=ahead, big=big_campaigns, ads=ads_per_ad_set).make(
            users
        )

    @cached_property
    def mint(self) -> Mint:
        """Issues and reads this world's tokens."""
        return Mint(self.seed)

    @cached_property
    def _by_key(self) -> dict[tuple[Platform, str], AdAccount]:
        return {(account.platform, account.external_id): account for account in self.accounts}

    def account(self, platform: Platform, external_id: str) -> AdAccount | None:
        """One account, if there is such."""
        return self._by_key.get((platform, external_id))

    def accounts_of(self, user: int, platform: Platform) -> list[AdAccount]:
        """What a user's token reaches on a platform."""
        return [account for account in self.accounts if account.user == user and account.platform is platform]

    @property
    def connected(self) -> list[AdAccount]:
        """The accounts that users have connected to the web platform."""
        return [account for account in self.accounts if account.enabled]

    def change(self, account: AdAccount, *, timezone: str | None = None, **described: Any) -> AdAccount:
        """From now on the platform describes the account so, all of its past by the clocks of ``timezone``.

        It happens in place: everybody who has this world sees it.
        """
        if timezone is not None:
            zone, ledger = ZoneInfo(timezone), account.ledger
            local = [datetime.fromtimestamp(start, zone) for start in ledger.starts.tolist()]
            days, clocks = np.array([(at.toordinal(), at.hour) for at in local], np.int64).T
            account = replace(account, timezone=timezone, ledger=replace(ledger, day=days, hour=clocks))
        changed = replace(account, **described)
        others = (one if one.external_id != account.external_id else changed for one in self.accounts)
        object.__setattr__(self, "accounts", tuple(others))
        self.__dict__.pop("_by_key", None)
        return changed

    def adopt(self, user: User, account: AdAccount) -> World:
        """A world with one more account; the user is added unless already there."""
        users = self.users if user in self.users else (*self.users, user)
        return replace(self, users=users, accounts=(*self.accounts, account))

    def credentials(self, account: AdAccount) -> tuple[str, str | None, datetime | None]:
        """The access token, refresh token and expiry that the user's first connection gave."""
        start = int(self.anchor.timestamp())
        key = (account.user, account.platform)
        match account.platform:
            case Platform.META:
                expires = start + (10 * 3600 if key in self.expiring else META_TOKEN_SECONDS)
                return self._token(Kind.META, account.user, expires), None, datetime.fromtimestamp(expires, UTC)
            case Platform.TIKTOK:
                return self._token(Kind.TIKTOK, account.user, 0), None, None
            case Platform.GOOGLE:
                expires = start + (-1800 if key in self.revoked else GOOGLE_TOKEN_SECONDS)
                access = self._token(Kind.GOOGLE_ACCESS, account.user, expires)
                return access, self._token(Kind.GOOGLE_REFRESH, account.user, 0), datetime.fromtimestamp(expires, UTC)

    def reauthorized(self, account: AdAccount, now: datetime) -> tuple[str, str | None, datetime | None]:
        """What a user gets who connects the account again at ``now``: a new generation, never revoked."""
        moment, user = int(now.timestamp()), account.user
        match account.platform:
            case Platform.META:
                expires = moment + META_TOKEN_SECONDS
                return self._token(Kind.META, user, expires, 1), None, datetime.fromtimestamp(expires, UTC)
            case Platform.TIKTOK:
                return self._token(Kind.TIKTOK, user, 0, 1), None, None
            case Platform.GOOGLE:
                expires = moment + GOOGLE_TOKEN_SECONDS
                access = self._token(Kind.GOOGLE_ACCESS, user, expires, 1)
                return access, self._token(Kind.GOOGLE_REFRESH, user, 0, 1), datetime.fromtimestamp(expires, UTC)

    def is_revoked(self, grant: Grant, platform: Platform) -> bool:
        """Whether the user took the grant back. Connecting again makes a new generation, which is not."""
        return grant.generation == 0 and (grant.user, platform) in self.revoked

    def _token(self, kind: Kind, user: int, expires: int, generation: int = 0) -> str:
        return self.mint.issue(Grant(kind, user, expires, generation))


class _Maker:
    """Draws a world. One generator per account for its structure, so that accounts do not disturb each other."""

    def __init__(self, seed: int, anchor: datetime, *, days: int, ahead: int, big: int, ads: int) -> None:
        self.seed, self.anchor, self.days, self.ahead = seed, anchor, days, ahead
        self.big, self.ads = _BIG[:big], ads
        self.incidents: list[Incident] = []
        self.traps: list[Trap] = []

    def make(self, users: int) -> World:
        people: list[User] = []
        accounts: list[AdAccount] = []
        expiring: set[tuple[int, Platform]] = set()
        revoked: set[tuple[int, Platform]] = set()
        for index in range(users):
            handle, name, seats = _CAST[index % len(_CAST)]
            lap = index // len(_CAST)
            user = User(index, f"{handle}{lap or ''}@example.com", f"{name} {lap + 1}" if lap else name)
            people.append(user)
            for seat in seats:
                accounts.append(self.account(user, seat, number=len(accounts)))
                expiring |= {(index, seat.platform)} if seat.login == "expiring" else set()
                revoked |= {(index, seat.platform)} if seat.login == "revoked" else set()
        accounts += [self.cancelled(account) for account in accounts if account.manager]
        return World(
            seed=self.seed,
            anchor=self.anchor,
            users=tuple(people),
            accounts=tuple(accounts),
            incidents=tuple(self.incidents),
            traps=tuple(self.traps),
            expiring=frozenset(expiring),
            revoked=frozenset(revoked),
        )

    def account(self, user: User, seat: Seat, number: int) -> AdAccount:
        """One account with its structure, its plans and its ledger."""
        rng = np.random.default_rng([self.seed, number, 1])
        local = self.anchor.astimezone(ZoneInfo(seat.timezone)).date()
        timeline = hours(seat.timezone, local - timedelta(days=self.days), local + timedelta(days=self.ahead))
        tree = _Tree(rng, seat, anchor=self.anchor, days=self.days, number=number, ads_per_ad_set=self.ads)
        tree.grow(self.sketches(seat.platform))
        external_id = tree.account_id
        big = [tree.campaigns[index] for index in range(len(self.big))]
        influences = []
        for plan in plans(user.index % len(_CAST), seat.platform, number, self.ahead):
            campaign = None if plan.campaign is None else min(plan.campaign, len(big) - 1)
            incident = self.plant(plan, user, seat, external_id, None if campaign is None else big[campaign])
            leaves = tuple(n for n, leaf in enumerate(tree.leaves) if campaign in (None, leaf.campaign))
            influences.append(Influence(EFFECTS[plan.kind][1], leaves, incident.since, incident.until))
        self.set_traps(user, seat, external_id, tree)
        business = Business(
            office_hours=user.index % len(_CAST) == 1,
            pays_per_click=seat.platform is Platform.GOOGLE,
            fractional=seat.platform is Platform.GOOGLE,
            quantum=money_quantum(seat.currency),
        )
        ledger = simulate(
            self.seed,
            f"account {number}",
            hours=timeline,
            habits=tree.habits,
            business=business,
            influences=influences,
        )
        return AdAccount(
            user=user.index,
            platform=seat.platform,
            external_id=external_id,
            name=f"{user.name} - {_TITLE[seat.platform]}",
            currency=seat.currency,
            timezone=seat.timezone,
            campaigns=tuple(tree.campaigns),
            ad_sets=tuple(tree.ad_sets),
            ads=tuple(tree.all_ads),
            leaves=tuple(tree.leaves),
            ledger=ledger,
            manager=tree.manager_id if seat.managed else None,
        )

    def sketches(self, platform: Platform) -> tuple[Sketch, ...]:
        extra = {Platform.META: _ARCHIVED, Platform.TIKTOK: _REACH, Platform.GOOGLE: _PMAX}
        return (*self.big, *_SMALL, extra[platform])

    def plant(self, plan: Plan, user: User, seat: Seat, account: str, campaign: Entity | None) -> Incident:
        since = _whole_hour(self.anchor + plan.since)
        incident = Incident(
            kind=plan.kind,
            user=user.email,
            platform=seat.platform,
            account=account,
            level="account" if campaign is None else Level.CAMPAIGN,
            entity=account if campaign is None else campaign.external_id,
            metric=EFFECTS[plan.kind][0],
            since=since,
            until=since + plan.lasts,
            size=SIZES[plan.kind],
            group=f"{user.email}/{plan.kind}/{since:%Y%m%d%H}",
        )
        self.incidents.append(incident)
        return incident

    def set_traps(self, user: User, seat: Seat, account: str, tree: _Tree) -> None:
        def trap(kind: TrapKind, level: str, entity: str, since: float, note: str) -> None:
            begin = self.anchor + timedelta(days=since)
            end = self.anchor + timedelta(days=self.ahead)
            self.traps.append(Trap(kind, user.email, seat.platform, account, level, entity, begin, end, note))

        niche, new = tree.campaigns[len(self.big)], tree.campaigns[len(self.big) + 1]
        trap(TrapKind.LOW_VOLUME, "campaign", niche.external_id, -self.days, "a few clicks a day")
        trap(TrapKind.NEW_CAMPAIGN, "campaign", new.external_id, -2.2, "no history before it began")
        trap(TrapKind.LATE_CONVERSIONS, "account", account, -7, "recent days always look worse than they are")
        if user.index % len(_CAST) == 1:
            trap(TrapKind.WEEKEND_DIP, "account", account, -self.days, "sells to offices, quiet on weekends")

    def cancelled(self, sibling: AdAccount) -> AdAccount:
        """A cancelled customer under the same manager, which listings show and queries must skip."""
        timeline = hours(sibling.timezone, self.anchor.date(), self.anchor.date())
        business = Business(office_hours=False, pays_per_click=True, fractional=False, quantum=10_000)
        return replace(
            sibling,
            external_id=str(int(sibling.external_id) + 1),
            name=f"{sibling.name} (cancelled)",
            campaigns=(),
            ad_sets=(),
            ads=(),
            leaves=(),
            ledger=simulate(self.seed, "cancelled", hours=timeline, habits=[], business=business, influences=[]),
            enabled=False,
        )


class _Tree:
    """Grows one account's campaigns, ad sets, ads, leaves and their habits, in that order."""

    def __init__(
        self,
        rng: np.random.Generator,
        seat: Seat,
        *,
        anchor: datetime,
        days: int,
        number: int,
        ads_per_ad_set: int,
    ) -> None:
        self.rng, self.seat, self.anchor, self.days = rng, seat, anchor, days
        self.ads_per_ad_set = ads_per_ad_set
        self.campaigns: list[Entity] = []
        self.ad_sets: list[Entity] = []
        self.all_ads: list[Entity] = []
        self.leaves: list[Leaf] = []
        self.habits: list[Habit] = []
        # 19 digits on TikTok and 18 on Meta: more than a float can hold; 10 to 12 on Google.
        first = {Platform.META: 120_210_000_000_000_000, Platform.TIKTOK: 1_801_000_000_000_000_000}
        self.next_id = first.get(seat.platform, 20_000_000_000) + number * 1_000_003 + int(rng.integers(1, 997))
        account = {Platform.META: 1_001_000_000_000_000, Platform.TIKTOK: 7_001_000_000_000_000_000}
        self.account_id = str(account.get(seat.platform, 1_234_500_000) + number * 101 + int(rng.integers(1, 50)))
        self.manager_id = str(9_876_500_000 + number)
        self.daily_spend = float(rng.uniform(1800, 3600)) * _PRICE_LEVEL[seat.currency]

    def grow(self, sketches: Iterable[Sketch]) -> None:
        """All campaigns of the sketches."""
        sketches = list(sketches)
        whole = sum(sketch.share for sketch in sketches)
        for sketch in sketches:
            self.campaign(sketch, self.daily_spend * sketch.share / whole)

    def campaign(self, sketch: Sketch, spend: float) -> None:
        """One campaign with its ad sets and ads. Big ones have two ad sets; every second one holds the budget."""
        index, big = len(self.campaigns), sketch.share >= 0.4
        on_campaign = index % 2 == 0 or self.seat.platform is Platform.GOOGLE
        channel = "REACH" if not sketch.tells_conversions else _CHANNEL[self.seat.platform]
        entity = self.entity(
            Level.CAMPAIGN,
            None,
            sketch,
            sketch.name,
            channel=channel if sketch.ads else "PERFORMANCE_MAX",
            budget=spend * 1.4 if on_campaign else None,
        )
        self.campaigns.append(entity)
        if not sketch.ads:
            self.leaves.append(Leaf(index, None, None))
            self.habits.append(self.habit(sketch, spend))
            return
        ad_sets = 2 if big else 1
        if sketch.status is Status.PAUSED:
            # Who pauses a campaign leaves what is in it as it was.
            sketch = replace(sketch, status=Status.ACTIVE)
        for number in range(ad_sets):
            budget = None if on_campaign else spend * 1.4 / ad_sets
            self.ad_set(sketch, index, number, spend / ad_sets, budget)

    def ad_set(self, sketch: Sketch, campaign: int, number: int, spend: float, budget: float | None) -> None:
        """One ad set with its ads. In the second ad set of a campaign one ad is paused and one deleted."""
        index = len(self.ad_sets)
        audience = ("25-44 women", "18-34 all", "Interest: Möbel")[(campaign + number) % 3]
        parent = self.campaigns[campaign].external_id
        ad_set = self.entity(Level.AD_SET, parent, sketch, f"{audience} #{number + 1}", budget=budget)
        self.ad_sets.append(ad_set)
        count = self.ads_per_ad_set if sketch.share >= 0.4 else max(1, self.ads_per_ad_set - 1)
        weights = self.rng.dirichlet(np.full(count, 12.0))
        for ad in range(count):
            own = sketch
            if number == 1 and ad == count - 1 and count > 1:
                own = replace(sketch, status=(Status.DELETED, Status.PAUSED)[campaign % 2], ends=-5.5 - campaign)
            entity = self.entity(Level.AD, ad_set.external_id, own, f"Creative {chr(65 + ad)} - {audience}")
            self.leaves.append(Leaf(campaign, index, len(self.all_ads)))
            self.all_ads.append(entity)
            self.habits.append(self.habit(own, spend * float(weights[ad])))

    def entity(
        self,
        level: Level,
        parent: str | None,
        sketch: Sketch,
        name: str,
        *,
        channel: str | None = None,
        budget: float | None = None,
    ) -> Entity:
        """The next entity; ids rise with every one."""
        self.next_id += int(self.rng.integers(1, 40))
        quantum = money_quantum(self.seat.currency)
        begins = -self.days - 30 if sketch.begins is None else sketch.begins
        return Entity(
            level=level,
            external_id=str(self.next_id),
            parent=parent,
            name=name,
            status=sketch.status,
            created=(self.anchor + timedelta(days=begins)).replace(microsecond=0),
            daily_budget_micros=None if budget is None else max(quantum * 100, round(budget * 1e6 / 1e8) * 100_000_000),
            channel=channel,
            tells_conversions=sketch.tells_conversions,
        )

    def habit(self, sketch: Sketch, spend: float) -> Habit:
        """How a leaf that should spend ``spend`` a day behaves. Cost per purchase about a third of its value."""
        rng, level = self.rng, _PRICE_LEVEL[self.seat.currency]
        ctr, cpc = rng.uniform(0.009, 0.02), rng.uniform(0.45, 0.75) * level
        pays_per_click = self.seat.platform is Platform.GOOGLE
        start = self.anchor.timestamp()
        return Habit(
            impressions=spend / (cpc * ctr) / 24,
            ctr=ctr,
            price=cpc * 1e6 if pays_per_click else cpc * ctr * 1e6,
            cvr=rng.uniform(0.03, 0.05) if sketch.tells_conversions else 0.0,
            order_value=rng.uniform(45, 75) * level * 1e6,
            begins=-np.inf if sketch.begins is None else start + sketch.begins * 86_400,
            ends=np.inf if sketch.ends is None else start + sketch.ends * 86_400,
        )


def _whole_hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)
