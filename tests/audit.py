"""What this project brings in from others: ``make audit``. Works offline, from the lock files and what is installed.

Every locked dependency is pinned with hashes and named by no address, so that it comes from the index that whoever
installs has chosen, and cannot be another file; only wheels are installed, so that no dependency's code runs while it
is installed; what is installed is what is locked; every licence is one that lets the product be used and sold.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
LOCKS: Final = ("requirements.lock", "requirements-dev.lock", "requirements-uv.lock", "requirements-dask.lock")
CLIENTS_LOCK: Final = "requirements-clients.lock"
PEERS_LOCKS: Final = tuple(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("benchmarks/peers/*.lock")))
"""What the benchmarks run beside the product, each in an environment of its own; no part of it."""
CLIENTS: Final = Path(sys.prefix, "clients")
"""Where ``make clients`` puts the platforms' own clients, away from the product and bounding none of it."""
NEEDS_CLIENTS: Final = "the platforms' own clients are not installed; to run this test: make clients"
OURS: Final = "aae-pipelines"
BROUGHT_BY_VENV: Final = frozenset({"pip", "setuptools"})
REVIEWED: Final = frozenset({"text-unidecode"})
"""Licences that somebody has looked at: it may be used under the Artistic License or the GPL, as one likes."""
REVIEWED_CLIENTS: Final = frozenset({"facebook-business", "capi-param-builder-python", "pycountry"})
"""The same of the clients, which run in tests alone and are no part of the product: the first two are Meta's, for use
with its platform; pycountry is LGPL, and used as it is."""

_REQUIREMENT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(?P<version>[^\s;\\]+)(?P<marker>\s*;[^\\]*)?"
)
_HASH: Final = re.compile(r"--hash=sha256:[0-9a-f]{64}(?![0-9a-f])")
_ADDRESS: Final = re.compile(
    r"://|@\s*(?:git|file|http)|--(?:extra-)?index-url|--find-links|--trusted-host|(?:^|\s)-[eif]\s"
)
_FREE: Final = re.compile(
    r"MIT|BSD|Apache|\bISC|\bMPL|Mozilla Public|PSF|Python Software|CNRI|Zlib|CC0|Unlicense|Public Domain|Dual License"
    r"|Artistic",
    re.IGNORECASE,
)
_COPYLEFT: Final = re.compile(r"\b[AL]?GPL|GNU (?:Affero |Lesser )?General Public", re.IGNORECASE)


def main() -> None:
    """Print the licences and what is wrong; exit 1 if anything is."""
    locks = {name: (ROOT / name).read_text() for name in LOCKS}
    clients_lock = (ROOT / CLIENTS_LOCK).read_text()
    apart = {name: (ROOT / name).read_text() for name in (CLIENTS_LOCK, *PEERS_LOCKS)}
    installed, clients = list(distributions()), client_distributions()
    wrong = [
        *(f"{name}: {told}" for name, text in {**locks, **apart}.items() for told in faults(text)),
        *disagreements(locks.values()),
        *not_as_locked(installed, locks.values()),
        *not_as_locked(clients, [clients_lock]),
        *not_wheels_only((ROOT / "Makefile").read_text()),
        *unfree(installed),
        *unfree(clients, REVIEWED_CLIENTS),
    ]
    counted = Counter(licence(each) for each in [*installed, *clients])
    for text, number in counted.most_common():
        print(f"{number:4} {text}")  # noqa: T201
    pinned = sum(len(pins(text)) for text in [*locks.values(), *apart.values()])
    print(f"{pinned} pins in {len(locks) + len(apart)} lock files, {len(installed)} installed.")  # noqa: T201
    print(f"{len(clients) or 'None'} of them in the environment of the platforms' own clients (make clients).")  # noqa: T201
    print("\n".join(wrong) or "Nothing is wrong with them.")  # noqa: T201
    print("Known vulnerabilities are not looked up: that needs the network; see make audit-online.")  # noqa: T201
    sys.exit(bool(wrong))


def faults(lock: str) -> Iterator[str]:
    """What is wrong with a lock file, line by line."""
    for line in lock.splitlines():
        if not line.strip().startswith("#") and _ADDRESS.search(line):
            yield f"an address is named: {line.strip()[:60]}"
    for entry in _entries(lock):
        first = entry.splitlines()[0]
        if not _REQUIREMENT.match(first):
            yield f"not pinned to one version: {first[:60]}"
        elif not _HASH.search(entry):
            yield f"without a hash: {first[:60]}"


def pins(lock: str) -> dict[str, set[str]]:
    """The versions of each name; several where they depend on the platform."""
    found: dict[str, set[str]] = {}
    for entry in _entries(lock):
        match = _REQUIREMENT.match(entry)
        if match:
            found.setdefault(_plain(match["name"]), set()).add(match["version"])
    return found


def disagreements(locks: Iterable[str]) -> Iterator[str]:
    """Names that the lock files pin differently."""
    together: dict[str, list[set[str]]] = {}
    for lock in locks:
        for name, versions in pins(lock).items():
            together.setdefault(name, []).append(versions)
    for name, each in together.items():
        if any(versions != each[0] for versions in each):
            yield f"{name} is pinned differently: {', '.join(sorted(set().union(*each)))}"


def not_as_locked(installed: Iterable[Distribution], locks: Iterable[str]) -> Iterator[str]:
    """What is installed in another version than the locked one, or not locked at all."""
    locked: dict[str, set[str]] = {}
    for lock in locks:
        for name, versions in pins(lock).items():
            locked.setdefault(name, set()).update(versions)
    for each in installed:
        name = _plain(each.name)
        if name != OURS and name not in BROUGHT_BY_VENV and each.version not in locked.get(name, set()):
            yield f"{name} {each.version} is installed, locked is {', '.join(sorted(locked.get(name, {'nothing'})))}"


def not_wheels_only(makefile: str) -> Iterator[str]:
    """Commands of the Makefile that install from a lock file and would take a source distribution."""
    joined = makefile.replace("\\\n", " ")
    for command in re.findall(r"(?:uv pip|-m pip)[^|\n]*\binstall\b[^|\n]*--require-hashes[^|\n]*", joined):
        if "--only-binary :all:" not in command:
            yield f"Makefile: would build from source: {command.strip()[:80]}"


def client_distributions() -> list[Distribution]:
    """What is installed beside the platforms' own clients; nothing where ``make clients`` was not run."""
    return list(distributions(path=[str(path) for path in CLIENTS.glob("lib/python*/site-packages")]))


def unfree(installed: Iterable[Distribution], reviewed: Iterable[str] = REVIEWED) -> Iterator[str]:
    """What has no licence, one that we do not know, or one that reaches over to the product."""
    passed = {OURS, *reviewed}
    for each in installed:
        if _plain(each.name) in passed:
            continue
        told = licence(each)
        if not _FREE.search(told) or (_COPYLEFT.search(told) and " OR " not in told):
            yield f"{each.name}: the licence {told!r} needs a look"


def licence(each: Distribution) -> str:
    """The licence as the distribution states it, on one line."""
    stated = each.metadata
    classified = [one.rpartition("::")[2].strip() for one in stated.get_all("Classifier") or [] if "License ::" in one]
    text = stated.get("License-Expression") or " / ".join(classified) or stated.get("License") or "none stated"
    first = text.strip().splitlines()[0]
    if not _FREE.search(first):
        # Some put the whole text there, beginning with who wrote it.
        names = [name for name in ("MIT", "BSD", "Apache", "GPL") if name in text] or [_from_file(each)]
        first = names[0] or first
    return first[:60]


def _from_file(each: Distribution) -> str:
    """What the licence file of a distribution that states none begins like."""
    files = [path for path in each.files or [] if re.match(r"(?:LICEN[CS]E|COPYING)", path.name, re.IGNORECASE)]
    text = " ".join((files[0].read_text() or "").split()) if files else ""
    known = {
        "Permission is hereby granted, free of charge": "MIT",
        "Redistribution and use in source and binary forms": "BSD",
        "Apache License": "Apache",
        "GNU GENERAL PUBLIC": "GPL",
    }
    return next((name for words, name in known.items() if words in text), "")


def _entries(lock: str) -> Iterator[str]:
    """Each requirement with its options, as one text."""
    lines = [line for line in lock.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    entry: list[str] = []
    for line in lines:
        if entry and not line[0].isspace():
            yield "\n".join(entry)
            entry = []
        entry.append(line)
    if entry:
        yield "\n".join(entry)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
