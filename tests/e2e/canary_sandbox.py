"""The sandbox as ``aae.sandbox``, for an app whose credentials are those of the settings."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from aae.sandbox import __main__ as sandbox
from aae.sandbox.world import AppCredentials, World

_build = sandbox.build


def _with_our_app(*arguments: Any, **more: Any) -> World:
    app = AppCredentials(
        meta_app_secret=os.environ["AAE_META__APP_SECRET"],
        tiktok_secret=os.environ["AAE_TIKTOK__SECRET"],
        google_client_secret=os.environ["AAE_GOOGLE__CLIENT_SECRET"],
        google_developer_token=os.environ["AAE_GOOGLE__DEVELOPER_TOKEN"],
    )
    return replace(_build(*arguments, **more), app=app)


if __name__ == "__main__":
    sandbox.build = _with_our_app
    sandbox.main()
