"""What the sandbox's platforms know our app by; apart from the world, which takes long to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class AppCredentials:
    """What the platforms know our app by. They guard nothing: the sandbox listens on this machine only."""

    meta_app_id: str = "100200300400500"
    meta_app_secret: str = "sandbox-meta-app-secret"  # noqa: S105 - a sandbox has no secrets
    tiktok_app_id: str = "7100000000000000001"
    tiktok_secret: str = "sandbox-tiktok-secret"  # noqa: S105 - a sandbox has no secrets
    google_client_id: str = "sandbox.apps.googleusercontent.example"
    google_client_secret: str = "sandbox-google-client-secret"  # noqa: S105 - a sandbox has no secrets
    google_developer_token: str = "sandbox-developer-token"  # noqa: S105 - a sandbox has no secrets


APP: Final = AppCredentials()
