"""What is taken out of the image's packages: nothing that any program of ours loads, and most of what is not for us."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests import dockerfile

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deployments" / "docker"
PACKAGES = Path(sysconfig.get_paths()["purelib"])

# Modules, and the libraries that they are linked to.
LOADED = """
import importlib, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import load
for name in load.modules():
    importlib.import_module(name)
files = {getattr(module, "__file__", None) for module in list(sys.modules.values())} - {None}
maps = Path("/proc/self/maps")
if maps.exists():
    files |= {line.split()[-1] for line in maps.read_text().splitlines() if ".so" in line}
print(json.dumps(sorted(files)))
"""


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def packages(tmp_path: Path) -> Callable[..., Path]:
    def make(*files: str) -> Path:
        for name in files:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)
        return tmp_path

    return make


def test_nothing_that_a_program_loads_is_taken_out() -> None:
    command = [sys.executable, "-W", "ignore", "-c", LOADED, str(FOLDER)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {Path(name) for name in json.loads(done.stdout)}
    assert PACKAGES / "prefect" / "server" / "api" / "server.py" in loaded
    gone = set(script("slim").unused(PACKAGES))
    assert [path for path in loaded if gone & {path, *path.parents}] == []


def test_every_package_of_which_something_is_taken_is_one_that_we_have() -> None:
    for package, patterns in script("slim").UNUSED.items():
        assert any(list((PACKAGES / package).glob(pattern)) for pattern in patterns), package


def test_tests_headers_and_stubs_go_and_the_code_stays(packages: Callable[..., Path]) -> None:
    here = packages("a/core.py", "a/tests/test_core.py", "a/core.pyi", "a/include/core.h", "a/data.json")
    script("slim").remove(here)
    assert sorted(str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()) == [
        "a/core.py",
        "a/data.json",
    ]


def test_of_a_library_that_is_there_three_times_the_one_stays_that_the_linker_looks_for(
    packages: Callable[..., Path],
) -> None:
    here = packages(
        *(f"pyarrow/libarrow_python.so{end}" for end in ("", ".2600", ".2600.1.0")), "pyarrow/lib.cpython.so"
    )
    script("slim").remove(here)
    assert {path.name for path in (here / "pyarrow").iterdir()} == {"libarrow_python.so.2600", "lib.cpython.so"}


def test_the_build_takes_out_first_and_then_loads_everything() -> None:
    [build, last] = dockerfile.read(FOLDER / "Dockerfile")
    runs = [rest for name, rest in build.steps if name == "RUN"]
    [slim] = [number for number, rest in enumerate(runs) if "slim.py" in rest]
    [load] = [number for number, rest in enumerate(runs) if "load.py" in rest]
    assert slim < load
    assert not any("binutils" in rest for _, rest in last.steps), "what the build needs stays in the build"
