"""What is installed is what is here: the wheel is whole, imports from anywhere, and the packages' direction holds."""

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator, Mapping
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
    for script in ("dan", "active-dan"):
        assert succeed([clean / "bin" / script, "--version"], elsewhere) == f"active-dan {report['installed']}\n"
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
        ("no-cli", "dan.run_task", "dan.cli.train"),
        ("no-cli", "active.learners.dan", "dan.cli.command_line"),
        ("no-cli", "dan.training.trainer", "active.cli.run"),
        ("strategies", "active.strategies", "dan.evaluation.metrics"),
        ("strategies", "active.pool", "active.learners.dan"),
        ("strategies", "active.strategies.badge", "dan.run_dir"),
        ("loop", "active.loop", "dan.models.dan"),
        ("training-order", "dan.losses", "dan.training.trainer"),
        ("training-order", "dan.mmd.kernels", "dan.losses"),
        ("mmd-alone", "dan.mmd.kernels", "dan.models"),
        ("mmd-alone", "dan.mmd.dense", "dan.evaluation.calibration"),
        ("models-and-data", "dan.data", "dan.mmd"),
        ("models-and-data", "dan.models.dan", "dan.losses"),
        ("acyclic", "dan.errors", "dan.training.trainer"),
        ("acyclic", "active.pool", "active.loop"),
        ("acyclic", "experiments.framework.records", "experiments.demo"),
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
    if contract == "acyclic":  # its report names siblings, not lines
        assert "No cycles are allowed in" in done.stdout
    else:
        assert f"{importer} -> {imported} (l." in done.stdout  # this import, and no other mistake, is what broke it


def modules(root: Path, *packages: str) -> dict[str, ast.Module]:
    """The syntax tree of each module of these packages, by its dotted name."""
    trees = {}
    for package in packages:
        for path in (root / package).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def imports(tree: ast.AST, *, types: bool = True) -> Iterator[tuple[str, str | None]]:
    """(module, name or None) of every import, also inside functions; types False leaves out TYPE_CHECKING blocks."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            yield from ((node.module, alias.name) for alias in node.names)
        elif types or not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            yield from imports(node, types=types)


def private_imports(trees: Mapping[str, ast.AST]) -> list[str]:
    """Imports of a name or a module of the project that begins with one underscore."""
    own = {name.split(".")[0] for name in trees}
    return sorted(
        f"{importer} imports {module}.{name}"
        for importer, tree in trees.items()
        for module, name in imports(tree)
        if module.split(".")[0] in own
        and any(part.startswith("_") and not part.startswith("__") for part in [*module.split("."), name or ""])
    )


def find_cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """One cycle of a directed graph as the nodes on it, the first one again at the end; [] if there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for successor in sorted(graph.get(node, ())):
            if cycle := visit(successor, [*path, node]):
                return cycle
        done.add(node)
        return []

    return next((cycle for node in sorted(graph) if (cycle := visit(node, []))), [])


def import_graph(trees: Mapping[str, ast.AST]) -> dict[str, set[str]]:
    """Which module imports which when it runs: imports inside functions count, those for types alone do not."""
    return {
        importer: {
            target
            for module, name in imports(tree, types=False)
            for target in [f"{module}.{name}" if f"{module}.{name}" in trees else module]
            if target in trees and target != importer
        }
        for importer, tree in trees.items()
    }


def test_no_module_imports_a_private_name_of_another() -> None:
    assert private_imports(modules(ROOT, "dan", "active")) == []


def test_private_imports_are_found() -> None:
    trees = {
        "dan": ast.parse(""),
        "dan.a": ast.parse("from dan.b import _hidden, shown\nfrom torch import _C\nimport __future__"),
        "dan.b": ast.parse("def f():\n    import dan._c\nfrom dan import __version__"),
    }
    assert private_imports(trees) == ["dan.a imports dan.b._hidden", "dan.b imports dan._c.None"]


def test_no_import_cycle_anywhere() -> None:
    """import-linter's contract sees siblings; here a module and a package above it count as well."""
    assert find_cycle(import_graph(modules(ROOT, *PACKAGES))) == []


def test_cycles_are_found() -> None:
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": {"d"}, "d": set()}) == []
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d", "b"]
    sources = {"p": "from p.a import x", "p.a": "def f():\n    from p import b", "p.b": "from p import x"}
    trees = {name: ast.parse(source) for name, source in sources.items()}
    assert import_graph(trees) == {"p": {"p.a"}, "p.a": {"p.b"}, "p.b": {"p"}}
    assert find_cycle(import_graph(trees)) == ["p", "p.a", "p.b", "p"]
    types_alone = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import x"
    assert import_graph({**trees, "p.b": ast.parse(types_alone)})["p.b"] == set()


def test_strategies_import_few_modules_of_dan() -> None:
    """dan.mmd, errors and progress bars: a new module of dan is not allowed before it is named here."""
    trees = modules(ROOT, "active")
    needed = {
        ".".join(module.split(".")[:2])
        for importer, tree in trees.items()
        if importer == "active.pool" or importer.startswith("active.strategies")
        for module, _ in imports(tree)
        if module.split(".")[0] == "dan"
    }
    assert needed == {"dan.mmd", "dan.errors", "dan.progress"}


MAX_FUNCTION, MAX_PARAMETERS, MAX_MODULE = 80, 10, 350  # lines, parameters but for self, lines
FACADE = "dan/training/trainer.py: fit"  # a training in one call: its common settings are arguments beside `config`


def too_large(root: Path, *packages: str) -> list[str]:
    """Modules and functions beyond these limits."""
    found = []
    for path in sorted(file for package in packages for file in (root / package).rglob("*.py")):
        name, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        found += [name] if len(text.splitlines()) > MAX_MODULE else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION or len([n for n in names if n not in ("self", "cls")]) > MAX_PARAMETERS:
                    found.append(f"{name}: {node.name}")
    return found


def test_packages_are_made_of_small_parts() -> None:
    """All but the one function that is a whole training in one call."""
    assert too_large(ROOT, *PACKAGES) == [FACADE]


def test_large_parts_are_found(tmp_path: Path) -> None:
    parameters = ", ".join(f"p{i}" for i in range(11))
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "wide.py").write_text(f"def wide({parameters}): ...\ndef narrow(self, {parameters[:-5]}): ...\n")
    (tmp_path / "p" / "long.py").write_text(
        "def long():\n" + "    x = 1\n" * 80 + "def short():\n" + "    x = 1\n" * 79
    )
    (tmp_path / "p" / "many.py").write_text("x = 1\n" * 351)
    assert too_large(tmp_path, "p") == ["p/long.py: long", "p/many.py", "p/wide.py: wide"]
