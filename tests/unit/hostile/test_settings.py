"""Any text in any setting: the settings, or one sentence that names the variable and repeats nothing of its value."""

from __future__ import annotations

import os
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from aae.errors import UserError
from aae.settings import Settings, _names, load

VARIABLES = [*sorted(name for name, _ in _names(Settings)), "PREFECT_API_URL", "PREFECT_API_AUTH_STRING"]
MARK = "hunter2secret"
SECRET = ("SECRET", "_TOKEN", "_KEYS", "DATABASE_URL", "REDIS_URL", "RESULTS_URL", "SMTP_URL", "AUTH_STRING")
# What an environment can hold: no NUL, and only what the system can encode.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
ODD = st.sampled_from(
    [
        *(
            "NaN",
            "inf",
            "-inf",
            "1e400",
            "-0",
            "٣",
            "9" * 5000,
            "[" * 2000,
            "{}",
            "[]",
            "null",
            '{"a": {}}',
            "\u202e",
        ),
        *("http://[::1", "http://a:b@", "mysql+pymysql://", "redis://h:99999/0", "redis://h/٣", "smtp://", "unix://"),
        *("sqlite:///", "http://a\nb", "smtp://h?tls=off&tls=on", "x@y\r\nBcc: z@y", "k:" + "A" * 44, "%00", "{{x}}"),
    ]
)


@pytest.mark.parametrize("variable", VARIABLES)
@examples(max_examples=12)
@given(value=TEXT | ODD, where=st.sampled_from(["", "before", "after"]))
@example(value=":0", where="before")  # an address beyond loopback was told
def test_any_value_ends_in_settings_or_in_one_sentence(variable: str, value: str, where: str) -> None:
    told = {"": value, "before": f"{MARK}{value}", "after": f"redis://u:{MARK}@{value}"}[where]
    with patch.dict(os.environ, {variable: told}):
        load.cache_clear()
        said = ""
        try:
            settings = load()
        except UserError as error:
            said = str(error)
        else:
            assert MARK not in repr(settings) or not variable.endswith(SECRET)
        finally:
            load.cache_clear()
    assert MARK not in said
    assert len(said.splitlines()) <= 1
    assert len(said) < 600
    assert not said or "AAE_" in said or variable in said
