"""What is installed is what is here: the wheel is whole, imports from anywhere, and the packages' direction holds."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("dan", "active", "experiments")

REPORT = """
import importlib, importlib.metadata, json
packages = [importlib.import_module(name) for name in ("dan", "active", "experiments")]
print(json.dumps({
    "files": [package.__file__ for package in packages],
    "version": packages[0].__version__,
    "installed": importlib.metadata.version("active-dan"),
}))
"""


def run(command: list[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that sees nothing of this checkout but its working directory."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300)


def succeed(command: list[str | Path], cwd: Path) -> str:
    done = run(command, cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copy_of_the_project(folder: Path) -> Path:
    """A copy to build or spoil; what runs and tools have written is left out."""
    folder.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", reason="the wheel is built with this environment's setuptools")
    project = copy_of_the_project(tmp_path_factory.mktemp("build") / "project")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    succeed([*pip, "--wheel-dir", "wheels", "."], project)
    (built,) = (project / "wheels").glob("*.whl")
    return built


def test_wheel_holds_every_module_and_no_other(wheel: Path) -> None:
    here = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in held if name.endswith(".py")} == here
    tables = {path.relative_to(ROOT).as_posix() for path in (ROOT / "experiments" / "paper_tables").glob("*.toml")}
    assert tables | {f"{name}/py.typed" for name in PACKAGES} <= held


def test_installs_and_imports_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    clean, elsewhere = tmp_path / "clean", tmp_path / "elsewhere"
    elsewhere.mkdir()
    succeed([sys.executable, "-m", "venv", clean], tmp_path)
    python = clean / "bin" / "python"
    succeed([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], tmp_path)
    site = Path(succeed([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path).strip())

    # The dependencies are lent by this environment, so that nothing is downloaded. A folder named in a .pth file comes
    # after the clean one on the path, and its own .pth files (an editable installation of this project) aren't read.
    lent = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "lent.pth").write_text("\n".join(lent) + "\n", encoding="utf-8")

    report = json.loads(succeed([python, "-c", REPORT], elsewhere).splitlines()[-1])
    assert [Path(file).resolve() for file in report["files"]] == [
        (site / name / "__init__.py").resolve() for name in PACKAGES
    ]
    assert report["version"] == report["installed"]
    assert all((site / name / "py.typed").is_file() for name in PACKAGES)


def lint_imports(project: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("importlinter", reason="the direction of the imports is checked by import-linter")
    script = Path(sys.executable).with_name("lint-imports")
    return run(
        [script, "--no-cache", "--no-logo", *(word for name in contracts for word in ("--contract", name))], project
    )


def test_direction_of_imports_holds() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("contract", "importer", "imported"),
    [
        ("direction", "dan.errors", "active.pool"),
        ("direction", "active.pool", "experiments.framework.records"),
        ("doors", "active.strategies", "dan.evaluation.metrics"),
        ("active-needs-mmd-only", "active.pool", "active.learners.dan"),
        ("training-order", "dan.losses", "dan.training.trainer"),
        ("mmd-alone", "dan.mmd.kernels", "dan.models"),
        ("networks-and-domains", "dan.data", "dan.mmd"),
    ],
)
def test_each_contract_breaks_on_a_wrong_import(tmp_path: Path, contract: str, importer: str, imported: str) -> None:
    project = copy_of_the_project(tmp_path / "project")
    file = project.joinpath(*importer.split("."))
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    with file.open("a", encoding="utf-8") as module:
        module.write(f"\nimport {imported}\n")
    done = lint_imports(project, contract)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{importer} -> {imported} (l." in done.stdout  # this import, and no other mistake, is what broke it
