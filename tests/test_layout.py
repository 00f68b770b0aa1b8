"""The shape of the code: imports point one way, no page hides a package, files and functions stay small."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("saes", "workbench", "probes", "pages")
MAX_FILE, MAX_FUNCTION = 330, 60  # lines; STYLE asks for about 300 and about 40
VAGUE = {"util", "utils", "helper", "helpers", "manager", "common", "misc"}


def _sources(*packages: str) -> list[Path]:
    return sorted(p for package in packages for p in (ROOT / package).rglob("*.py"))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_point_one_way(capsys, monkeypatch):
    """The contracts of pyproject.toml: saes <- workbench <- probes <- pages; Streamlit only in pages."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    broken = lint_imports(config_filename="pyproject.toml", no_cache=True)
    report = capsys.readouterr().out
    assert not broken, report
    assert "2 kept, 0 broken" in report


def test_no_page_is_named_after_a_package():
    """Streamlit puts pages/ first on the path: pages/saes.py would be what `import saes` finds."""
    pages = {p.stem for p in (ROOT / "pages").iterdir() if p.suffix == ".py" or p.is_dir()}
    installed = {
        p.name.split(".")[0] for place in sys.path if Path(place).is_dir() for p in Path(place).iterdir()
    }
    shadowed = (pages - {"__init__", "__pycache__"}) & (
        installed | set(sys.stdlib_module_names) | set(PACKAGES)
    )
    assert not shadowed, f"these pages hide a package of the same name: {sorted(shadowed)}"


def test_every_name_is_defined():
    """Ruff takes shapes in quotes for names (F821), so `ruff check` leaves the rule out: what it finds outside of
    quotes is a name that nothing defines."""
    asked = ["--select", "F821", "--ignore", "F722", "--output-format", "json"]
    ruff = [sys.executable, "-m", "ruff", "check", *asked, *PACKAGES, "tests"]
    found = json.loads(subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True).stdout)
    undefined = []
    for each in found:
        path, at = Path(each["filename"]), each["location"]
        names = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Name)]
        if (at["row"], at["column"] - 1) in {(name.lineno, name.col_offset) for name in names}:
            undefined.append(f"{_name(path)}:{at['row']}: {each['message']}")
    assert found, "ruff tells the shapes, if nothing else: it was not run"
    assert not undefined


def test_names_say_what_is_inside():
    vague = [_name(p) for p in _sources(*PACKAGES) if p.stem in VAGUE]
    assert not vague


@pytest.mark.parametrize("package", PACKAGES)
def test_files_and_functions_stay_small(package):
    """Hard bounds some way above what STYLE asks for, so that a page of code stays a page."""
    long = []
    for path in _sources(package):
        text = path.read_text(encoding="utf-8")
        if (n := text.count("\n")) > MAX_FILE:
            long.append(f"{_name(path)}: {n} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > MAX_FUNCTION:
                    long.append(f"{_name(path)}: {node.name} has {size} lines")
    assert not long, "split these: " + "; ".join(long)


def test_every_module_says_what_it_is():
    silent = [_name(p) for p in _sources(*PACKAGES) if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent, f"no docstring at the top of {silent}"


def test_nothing_is_unpickled_and_no_foreign_code_runs():
    """`pickle`, `torch.load(weights_only=False)` and `trust_remote_code=True` stay out of the library."""
    found = []
    for path in _sources(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            banned = {"pickle", "cloudpickle", "dill", "joblib"} & {n.split(".")[0] for n in names}
            found += [f"{_name(path)}:{node.lineno} imports {b}" for b in banned]
            if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
                wrong = {"trust_remote_code": True, "weights_only": False, "allow_pickle": True}
                if node.arg in wrong and node.value.value is wrong[node.arg]:
                    found.append(f"{_name(path)}:{node.value.lineno} sets {node.arg}={node.value.value}")
    assert not found


def test_the_readme_names_every_module():
    """A newcomer's question "where does X happen?" has its answer in the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    unnamed = [_name(p) for p in _sources(*PACKAGES) if f"`{p.name}`" not in readme]
    assert [name for name in unnamed if not name.endswith("__init__.py")] == []
