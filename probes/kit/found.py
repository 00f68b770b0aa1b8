"""Which probes there are: the modules of this package and the files of `$MARBLE_HOME/probes`; none is run for it.

A probe is a file with a function `ask(lab, checkpoints, …)` at its top level. Its question is the first line of its
docstring, its options are the arguments behind the first two, with their defaults. `READS` names kinds of artefacts
that the answer depends on besides the checkpoints (`READS = ("dictionary",)`). A file whose name begins with `_` is
none.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from workbench.errors import Failure, Misuse, unknown
from workbench.lab import KINDS, checked_name, labs_home

PACKAGE = Path(__file__).parents[1]
KINDS_OF_VALUES = {
    int: "a whole number", float: "a number", str: "a text", bool: "True or False",
    type(None): "a plain value, a text in quotes",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Probe:
    """One probe; `broken` says in a sentence why it cannot be asked, and is empty where it can."""

    name: str
    path: Path
    question: str
    options: Mapping[str, Any]
    broken: str = ""
    reads: tuple[str, ...] = ()

    @property
    def own(self) -> bool:
        """A file of the person's, beside their labs."""
        return self.path.parent != PACKAGE

    @property
    def source_sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def module(self) -> ModuleType:
        """The probe, loaded; one that cannot be is `Failure`."""
        try:
            if not self.own:
                return importlib.import_module(f"probes.{self.name}")
            return _loaded(f"own_probes.{self.name}", self.path)
        except Exception as error:
            raise Failure(f"{self.path} cannot be loaded, {type(error).__name__}: {error}") from error

    def told(self) -> dict[str, Any]:
        """For machines."""
        about = {
            "question": self.question,
            "options": dict(self.options),
            "path": str(self.path),
            "own": self.own,
        }
        return {"name": self.name, **about, **({"broken": self.broken} if self.broken else {})}


def _loaded(name: str, path: Path) -> ModuleType:
    """The module of a file as it is now; a dataclass in it looks its own module up by name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def own_folder() -> Path:
    """Where a person's own probes lie."""
    return labs_home() / "probes"


def probes() -> list[Probe]:
    """All probes by name; a file of one's own that bears the name of one of the package is told as broken."""
    found: dict[str, Probe] = {}
    for folder in (PACKAGE, own_folder()):
        for path in sorted(folder.glob("[!_]*.py")):
            probe = _read(path, path.stat().st_mtime_ns)
            if probe is None:
                continue
            if probe.name in found:
                probe = dataclasses.replace(
                    probe,
                    name=f"{probe.name}-own",
                    broken=f"there is a probe {probe.name!r} already: rename {path}",
                )
            found[probe.name] = probe
    return [found[name] for name in sorted(found)]


def probe(name: str) -> Probe:
    """The probe of this name; near names are offered for unknown ones."""
    everyone = {each.name: each for each in probes()}
    if name not in everyone:
        raise unknown("probe", name, everyone)
    return everyone[name]


def checked_options(asked: Probe, given: Sequence[str]) -> dict[str, Any]:
    """`n=100` and the like, of the type that the option's default has."""
    options: dict[str, Any] = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not equals or not name:
            raise Misuse(f"{each!r} is no setting: write NAME=VALUE, such as seed=1")
        if name not in asked.options:
            raise unknown(f"option of probe {asked.name!r}", name, asked.options)
        if name in options:
            raise Misuse(f"{name} is set twice, to {options[name]} and to {text}: give one of the two")
        options[name] = _as(type(asked.options[name]), name, text)
    return options


def _as(wanted: type, name: str, text: str) -> Any:
    expected = KINDS_OF_VALUES.get(wanted, wanted.__name__)
    no = Misuse(f"{name}={text} was given, and {expected} is expected: write it as in the probe's file")
    try:
        value = text if wanted is str else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise no from None
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted is not type(None) and type(value) is not wanted:
        raise no
    return value


@functools.lru_cache(maxsize=256)
def _read(path: Path, changed: int) -> Probe | None:
    """The probe in a file last `changed` then, from its text alone; None for a module that is none. A page asks for
    all at every run, and parsing them takes a tenth of a second."""
    name = path.stem
    try:
        checked_name(name, "probe's name")
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        return Probe(name, path, "", {}, f"{path} is not valid Python (line {error.lineno}: {error.msg})")
    except (UnicodeDecodeError, OSError, Misuse) as error:
        return Probe(name, path, "", {}, f"{path} cannot be read as a probe: {error}")
    ask = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "ask"), None)
    if ask is None:
        if path.parent == PACKAGE:
            return None
        return Probe(
            name,
            path,
            "",
            {},
            f"{path} has no function `ask` (a file beside probes that is none begins with _)",
        )
    question = (ast.get_docstring(tree) or "").strip().split("\n\n")[0].replace("\n", " ")
    if not question:
        return Probe(
            name, path, "", {}, f"{path} has no docstring: its first line is the question that it asks"
        )
    if len(ask.args.args) < 2:
        return Probe(name, path, question, {}, f"ask in {path} must take a lab and a list of checkpoints first")
    try:
        options = _options(ask)
    except ValueError:
        return Probe(name, path, question, {}, f"the options of ask in {path} need plain values as defaults")
    try:
        return Probe(name, path, question, options, reads=_reads(tree))
    except ValueError:
        kinds = ", ".join(KINDS)
        why = f'READS in {path} has to name kinds of artefacts, as READS = ("dictionary",) does: {kinds}'
        return Probe(name, path, question, {}, why)


def _reads(tree: ast.Module) -> tuple[str, ...]:
    """What `READS` of a file's top level is; `ValueError` where it names no kinds of artefacts."""
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == "READS" for target in targets):
            kinds = ast.literal_eval(node.value)
            if not isinstance(kinds, tuple | list) or not all(kind in KINDS for kind in kinds):
                raise ValueError
            return tuple(kinds)
    return ()


def _options(ask: ast.FunctionDef) -> dict[str, Any]:
    args = ask.args
    behind = args.args[2:]
    if len(args.defaults) < len(behind) or None in args.kw_defaults:
        raise ValueError
    defaults = args.defaults[len(args.defaults) - len(behind) :] if behind else []
    pairs = [*zip(behind, defaults, strict=True), *zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return {arg.arg: ast.literal_eval(default) for arg, default in pairs if default is not None}
