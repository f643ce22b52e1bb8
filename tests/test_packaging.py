import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"serving", "client", "benchmarks", "tests"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def imported(folder: Path) -> set[str]:
    """Top-level modules that the files of `folder` import, the standard library's and our own left out."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names


def declared(*extras: str) -> set[str]:
    """Distributions of the core and of `extras`, in canonical form."""
    groups = PROJECT["project"]["optional-dependencies"]
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in groups[extra])]
    return {re.split(r"[\[<>=;~! ]", line)[0].lower().replace("_", "-") for line in lines}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("client", ("data", "documents", "pipeline", "demo")),
        ("serving", ("serving", "scale", "traces", "engine-cpu", "demo", "train")),
        ("benchmarks", ("benchmarks", "serving", "data", "documents", "pipeline", "demo")),
    ],
)
def test_every_import_is_a_declared_dependency(folder: str, extras: tuple[str, ...]) -> None:
    providers = metadata.packages_distributions()
    allowed = declared(*extras)
    undeclared = {
        module
        for module in imported(ROOT / folder) - OURS
        if not {name.lower().replace("_", "-") for name in providers.get(module, [module])} & allowed
    }
    assert undeclared == set()


@pytest.mark.ring3
def test_the_client_needs_its_core_alone() -> None:
    """What `import client` and the command line load at once; the rest says which extra to install."""
    script = "import sys, client, client.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )
    providers = metadata.packages_distributions()
    heavy = {line for extra in ("data", "documents", "pipeline", "demo") for line in declared(extra)} - declared()
    assert not {name for name in loaded if {each.lower() for each in providers.get(name, ())} & heavy}


def test_client_and_server_share_no_code() -> None:
    assert "serving" not in imported(ROOT / "client")
    assert "client" not in imported(ROOT / "serving")
    assert "serving" not in imported(ROOT / "benchmarks")


def test_every_package_in_the_locks_has_a_hash() -> None:
    for lock in (ROOT / "locks").glob("*.txt"):
        pins = [line for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line]
        assert pins, lock
        assert all(line.endswith("\\") for line in pins), lock


def test_the_locks_name_no_package_index() -> None:
    for lock in (ROOT / "locks").glob("*.txt"):
        assert "://" not in lock.read_text(encoding="utf-8"), lock
