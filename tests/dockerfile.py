"""A Dockerfile read and, without any engine, carried out step by step in a root folder of its own."""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath


@dataclass
class Stage:
    """The instructions after one FROM, as (name, rest of the line)."""

    base: str
    name: str | None
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str:
        return [rest for name, rest in self.steps if name == instruction][-1]

    def words(self, instruction: str) -> list[str]:
        """The last such instruction in its JSON form."""
        return [str(word) for word in json.loads(self.last(instruction))]

    def variables(self) -> dict[str, str]:
        return dict(word.split("=", 1) for name, rest in self.steps if name == "ENV" for word in shlex.split(rest))

    def copies(self) -> Iterator[tuple[str | None, list[str], str]]:
        """Every COPY: from which stage, what, where to."""
        for name, rest in self.steps:
            if name == "COPY":
                yield copy(rest)


def copy(rest: str) -> tuple[str | None, list[str], str]:
    words = shlex.split(rest)
    options = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--"))
    *sources, target = (word for word in words if not word.startswith("--"))
    return options.get("from"), sources, target


def read(path: Path) -> list[Stage]:
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    stages: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            base, _, called = rest.partition(" AS ")
            stages.append(Stage(base, called or None))
        else:
            stages[-1].steps.append((name, rest.strip()))
    return stages


def context(root: Path, sources: Iterable[str]) -> Iterator[Path]:
    """The files of these folders and files that `.dockerignore` lets in, relative to ``root``."""
    rules = [line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for source in sources:
        found = root / source
        for path in [found] if found.is_file() else sorted(found.rglob("*")):
            relative = path.relative_to(root)
            if path.is_file() and not _is_ignored(relative, rules):
                yield relative


def _is_ignored(path: Path, rules: Iterable[str]) -> bool:
    """The last rule that matches the path or a folder above it decides."""
    ignored = False
    for rule in rules:
        pattern = rule.removeprefix("!")
        if any(_matches(PurePosixPath(one), pattern) for one in (path, *path.parents[:-1])):
            ignored = not rule.startswith("!")
    return ignored


def _matches(path: PurePosixPath, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatch(path.name, pattern.removeprefix("**/"))
    return len(path.parts) == len(PurePosixPath(pattern).parts) and fnmatch.fnmatch(str(path), pattern)


def carry_out(stages: list[Stage], project: Path, base: Path, roots: Path, environment: Mapping[str, str]) -> Path:
    """Carry out every stage in a copy of ``base``; the root folder of the last one.

    ``environment`` is for the steps alone: how this machine reaches the package index.
    """
    made: dict[str | None, Path] = {}
    for number, stage in enumerate(stages):
        root = made[stage.name] = roots / f"stage-{number}"
        # Linked, not copied: package managers replace files, they do not write into them.
        subprocess.run(["cp", "-al", str(base), str(root)], check=True)
        folder, variables = "/", dict(environment)
        for name, rest in stage.steps:
            if name == "WORKDIR":
                folder = rest
                (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif name == "ENV":
                variables |= dict(word.split("=", 1) for word in shlex.split(rest))
            elif name == "RUN":
                run(root, ["sh", "-c", rest], folder, variables)
            elif name == "COPY":
                source, what, where = copy(rest)
                _copy(made[source] if source else project, what, root / str(PurePosixPath(folder, where)).lstrip("/"),
                      from_context=source is None, mode=755 if "--chmod=755" in rest else None)  # fmt: skip
    return root


def _copy(origin: Path, sources: list[str], target: Path, *, from_context: bool, mode: int | None) -> None:
    if not from_context:
        [source] = sources
        shutil.copytree(origin / source.lstrip("/"), target, symlinks=True, copy_function=os.link, dirs_exist_ok=True)
        return
    for source in sources:
        for file in context(origin, [source]):
            # A folder's contents go into the target, a file into the folder that the target names with a slash.
            inside = file.relative_to(source) if (origin / source).is_dir() else Path(file.name)
            into = target / inside if (origin / source).is_dir() or target.is_dir() else target
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(origin / file, into)
            if mode:
                into.chmod(int(str(mode), 8))


def run(
    root: Path,
    command: list[str],
    folder: str = "/",
    environment: Mapping[str, str] | None = None,
    *,
    user: str | None = None,
    read_only: bool = False,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """One command in the root folder, in a mount namespace of its own.

    ``read_only`` leaves /tmp and the state folder to write to.
    """
    at = shlex.quote(str(root))
    mounts = [f"mount --bind {at} {at}", f"mount -t proc proc {at}/proc", f"mount --rbind /dev {at}/dev"]
    if read_only:
        mounts += [
            f"mount -o remount,ro,bind {at}",
            f"mount -t tmpfs none {at}/tmp",
            f"mount -t tmpfs -o uid=1001,gid=1001 none {at}/var/lib/aae",
        ]
    # By its path: the variables are those of the image.
    enter = [shutil.which("chroot") or "chroot", *([f"--userspec={user}"] if user else []), str(root)]
    step = shlex.join([*enter, "/bin/sh", "-c", f"cd {shlex.quote(folder)} && exec {shlex.join(command)}"])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", " && ".join([*mounts, f"exec {step}"])],
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def network(root: Path) -> dict[str, str]:
    """Let the root reach the package index as this machine does: its names, certificates and pip's settings."""
    for file in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(file).exists():
            target = root / file.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy(file, target)
    wanted = (
        "PIP_INDEX",
        "PIP_CERT",
        "PIP_DEFAULT_TIMEOUT",
        "HTTP_",
        "HTTPS_",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "http_",
        "https_",
        "no_proxy",
    )
    return {name: value for name, value in os.environ.items() if name.startswith(wanted)}
