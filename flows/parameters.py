"""What the jobs may be asked for: types with limits, which Prefect's form, ``aae run`` and the run itself all check."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from aae import shares
from aae.model import Platform

Id = Annotated[int, Field(strict=True, ge=1, le=2**63 - 1)]
Ids = Annotated[list[Id], Field(max_length=10_000, fail_fast=True)]
"""Ids of rows. The first wrong one ends the check: of thousands one sentence is told, not thousands."""

Platforms = Annotated[list[Platform], Field(fail_fast=True)]
Hours = Annotated[float, Field(ge=0, le=366 * 24, allow_inf_nan=False)]
Share = Annotated[str, AfterValidator(shares.check), WithJsonSchema({"type": "string", "pattern": shares.PATTERN})]
"""``2/4``: the second of four shares of the users (:mod:`aae.shares`)."""
