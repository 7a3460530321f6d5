"""Connectors for the ad platforms: the same file names in each folder, one door to the network for all."""

from __future__ import annotations

from aae.model import Platform
from aae.platforms.base import Connector
from aae.platforms.google import GoogleConnector
from aae.platforms.meta import MetaConnector
from aae.platforms.tiktok import TikTokConnector
from aae.platforms.transport import Transport
from aae.settings import Settings


def connectors(settings: Settings, transport: Transport) -> dict[Platform, Connector]:
    """One connector per platform, all through the same door; each serves every account at once."""
    return {
        Platform.META: MetaConnector(settings.meta, transport),
        Platform.TIKTOK: TikTokConnector(settings.tiktok, transport),
        Platform.GOOGLE: GoogleConnector(settings.google, transport),
    }
