"""Take out of the image's packages what no program of ours loads: `slim.py FOLDER`, the site-packages.

Half of what wheels bring is for other people: headers, type stubs, tests, clients of other clouds, debug symbols. After
an upgrade this list may miss something; then the image grows, and `make image` fails at its limit. Should it ever take
too much, the Dockerfile's next step fails, which loads every program.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FOR_DEVELOPERS = [
    *("*.pyi", "*.pyx", "*.pxd", "*.pxi", "*.c", "*.cpp", "*.h", "*.hpp", "*.a"),  # for type checkers and compilers
    "*.map",  # for the browser's debugger
]

UNUSED = {
    # Arrow is our cache's format and pandas' text; nothing here speaks to Flight servers or to object stores.
    "pyarrow": ["include", "src", "libarrow_flight*", "*_flight*", "libarrow_s3*", "_s3fs*", "_gcsfs*", "_azurefs*"],
    # The detector takes special functions and sparse sums.
    "scipy": [
        *("cluster", "datasets", "differentiate", "fft", "fftpack", "integrate", "interpolate", "io", "linalg", "misc"),
        *("ndimage", "odr", "optimize", "signal", "spatial", "stats", "sparse/linalg", "sparse/csgraph"),
    ],
    "sqlalchemy": ["testing"],
}


def unused(packages: Path) -> Iterator[Path]:
    """Files and folders that can go, some of them inside others."""
    yield from (folder for folder in packages.rglob("tests") if folder.is_dir())
    for pattern in FOR_DEVELOPERS:
        yield from packages.rglob(pattern)
    for package, patterns in UNUSED.items():
        for pattern in patterns:
            yield from (packages / package).glob(pattern)
    # Wheels hold no links: what should be one is there three times. The linker looks for the middle one (x.so.26).
    for library in (packages / "pyarrow").glob("*.so"):
        if len(same := sorted(library.parent.glob(f"{library.name}.*"), key=lambda path: len(path.name))) > 1:
            yield from (library, *same[1:])


def remove(packages: Path) -> None:
    """Files and whole folders."""
    for path in list(unused(packages)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def strip(packages: Path) -> None:
    """Compiled modules keep the symbols that others link to, and lose the rest.

    Not the libraries in `*.libs`: they were rewritten when the wheel was made, and `strip` can break such files.
    """
    found = [str(path) for path in packages.rglob("*.so*") if not path.parent.name.endswith(".libs")]
    subprocess.run(["strip", "--strip-unneeded", *found], check=True)  # noqa: S603, S607 - in the build stage


if __name__ == "__main__":
    remove(Path(sys.argv[1]))
    strip(Path(sys.argv[1]))
