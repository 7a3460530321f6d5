"""Whatever a name, a title or a link holds, a mail has exactly its own headers and leads to our platform only."""

from __future__ import annotations

import email
from datetime import UTC, datetime
from email import policy
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from aae.notify.email import Mail, compose

URL = "https://app.example.com"
HEADERS = {
    *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "List-Unsubscribe", "MIME-Version"),
    "Content-Type",
}
HOSTILE = st.sampled_from(
    [
        *("x\r\nBcc: evil@example.com", "x\nX-Evil: 1\n\nbody", "<script>alert(1)</script>", "<img src=x onerror=y>"),
        *(
            "\u202egnp.exe",
            "=?utf-8?q?=0ABcc=3A_x?=",
            '"><a href="https://evil.example">',
            "{{ 7*7 }}",
            "\ud800",
            "\x00",
        ),
        *("😀" * 300, "a\u2028Bcc: x", "=cmd|' /C calc'!A0", ""),
    ]
)
TEXT = HOSTILE | st.text(max_size=60)
LINKS = TEXT | st.sampled_from(
    [f"{URL}.evil.example/", f"{URL}@evil.example/", "https://evil.example/", "javascript:alert(1)", f"{URL}/reports/1"]
)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))
        self.links += [value or "" for name, value in attrs if name in {"href", "src"}]


def tags(title: str, name: str, message: str, link: str) -> tuple[Tags, set[str]]:
    made = compose(
        Mail(
            address="ada@example.com",
            user_name=name,
            urgent=False,
            title=title,
            message=message,
            data={"link": link, "action": title},
            dedupe_key="k",
            at=datetime(2026, 11, 22, tzinfo=UTC),
        ),
        sender="AAE <r@aae.example>",
        public_url=URL,
    )
    read = email.message_from_bytes(made.as_bytes(), policy=policy.default)
    page = read.get_body(("html",))
    assert page is not None
    found = Tags()
    found.feed(page.get_content())
    return found, set(read.keys())


@examples(max_examples=150)
@given(title=TEXT, name=TEXT, message=TEXT, link=LINKS)
def test_no_text_adds_a_header_an_element_or_a_way_out(title: str, name: str, message: str, link: str) -> None:
    found, headers = tags(title, name, message, link)
    assert headers == HEADERS
    assert {tag for tag, _ in found.found} & {"script", "img", "iframe", "form", "base", "object"} == set()
    assert not [name for _, names in found.found for name in names if name.startswith("on")]
    assert all(each.startswith(f"{URL}/") for each in found.links)
