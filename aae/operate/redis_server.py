"""Whether a Redis (or Valkey) server answers: asked once where a person waits, so that they read why it does not."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from aae import tls
from aae.errors import UserError

_SECONDS: Final = 3


def dial(url: str, variable: str) -> str:
    """Log in to the database that ``url`` names and ping it; returns which server it is, like ``valkey 8.1.0``.

    Raises:
        UserError: nobody answers, the login is refused, or there is no such database; the message names the setting
            ``variable`` and holds no password.
    """
    from redis import Redis  # noqa: PLC0415 - takes long to import
    from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError  # noqa: PLC0415

    parts = urlsplit(url)
    where = parts.path if parts.scheme == "unix" else f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
    try:
        with Redis.from_url(url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS) as client:
            client.ping()
            info = client.info("server")
    except (AuthenticationError, NoPermissionError):
        raise UserError(f"The Redis at {where} refused the user or the password: correct {variable}.") from None
    except ResponseError as error:
        if "DB index" in str(error) or "SELECT" in str(error):
            raise UserError(f"The Redis at {where} has no database of that number: correct {variable}.") from None
        raise UserError(f"The Redis at {where} does not let us in ({type(error).__name__}): see {variable}.") from None
    except (RedisError, OSError, ValueError) as error:
        if (reason := tls.trouble(error)) is not None:
            raise UserError(
                f"The Redis at {where} cannot be trusted: {reason}. See ssl_ca_certs in {variable}."
            ) from None
        kind = type(error).__name__
        raise UserError(f"No Redis answers at {where} ({kind}): start it or correct {variable}.") from None
    return f"{info.get('server_name', 'redis')} {info.get('valkey_version') or info.get('redis_version')}"
