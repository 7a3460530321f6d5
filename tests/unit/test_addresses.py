"""However an internal address is written, it is seen to be one."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aae.addresses import is_internal, is_loopback, require_public
from aae.errors import UserError

LOOPBACK = [
    *("localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.1", "127.255.255.254", "0x7f.1", "0x7f000001"),
    *("2130706433", "017700000001", "0177.0.0.1", "[::1]", "::1", "::ffff:127.0.0.1", "[::ffff:7f00:1]", "::127.0.0.1"),
    *("64:ff9b::7f00:1", "2002:7f00:1::", "0:0:0:0:0:0:0:1"),
]
INTERNAL = [
    *LOOPBACK,
    *("0.0.0.0", "0", "::", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "0xa9fea9fe"),
    *("2852039166", "fe80::1", "[fe80::1%25eth0]", "fc00::1", "fd00:ec2::254", "::ffff:169.254.169.254", "224.0.0.1"),
    *(
        "255.255.255.255",
        "redis",
        "db.internal",
        "printer.local",
        "metadata.google.internal",
        "a.internal.",
    ),
]
PUBLIC = ["8.8.8.8", "graph.facebook.com", "[2606:4700:4700::1111]", "134744072", "example.com."]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_in_every_form(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", INTERNAL)
def test_inside_in_every_form(host: str) -> None:
    assert is_internal(host)
    address = f"[{host}]" if ":" in host and not host.startswith("[") else host
    with pytest.raises(UserError, match="The webhook leads to an internal address; if that is meant, set X=1"):
        require_public(f"https://{address}/hook", "The webhook", unless="X=1", resolve=lambda _: ["8.8.8.8"])


@pytest.mark.parametrize("host", PUBLIC)
def test_the_world_outside(host: str) -> None:
    assert not is_internal(host)
    assert not is_loopback(host)
    require_public(f"https://{host}/hook", "The webhook", unless="X=1", resolve=lambda _: ["8.8.8.8"])


@pytest.mark.parametrize("found", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::ffff:10.0.0.1"], ["fe80::1%eth0"]])
def test_a_name_that_leads_inside_is_refused(found: list[str]) -> None:
    with pytest.raises(UserError, match="The webhook leads to an internal address"):
        require_public("https://hook.example.com/x", "The webhook", unless="X=1", resolve=lambda _: found)


@pytest.mark.parametrize("error", [socket.gaierror("no such name"), UnicodeError("label too long")])
def test_a_name_that_is_not_known_is_refused(error: Exception) -> None:
    def resolve(_: str) -> list[str]:
        raise error

    with pytest.raises(UserError, match="The webhook names a host that is not known here"):
        require_public("https://hook.example.com/x", "The webhook", unless="X=1", resolve=resolve)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://8.8.8.8@127.0.0.1/",
            "https://user:hunter2@10.0.0.1",
            "file:///etc/passwd",
        ),
        *("gopher://example.com", "//example.com", "https://", "https://exa\nmple.com", "https://example.com:99999"),
        *("https://example.com\\@127.0.0.1/", "https://[::1", "javascript:alert(1)", ""),
    ],
)
def test_tricks_with_addresses_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(UserError) as caught:
        require_public(url, "The webhook", unless="X=1", resolve=lambda _: ["8.8.8.8"])
    assert "hunter2" not in str(caught.value)


@given(st.integers(0, 2**24 - 1), st.sampled_from(["{}", "{:#x}", "0{:o}"]))
def test_any_loopback_address_as_any_number(rest: int, form: str) -> None:
    assert is_loopback(form.format((127 << 24) + rest))


@given(st.text(max_size=60))
def test_any_text_ends_in_a_yes_or_no(text: str) -> None:
    assert is_internal(text) in (True, False)
    try:
        require_public(f"https://{text}", "It", unless="X=1", resolve=lambda _: [])
    except UserError as error:
        assert len(str(error)) < 200  # noqa: PT017 - either end is right
