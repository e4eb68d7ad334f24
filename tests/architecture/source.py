"""The three rooms as syntax trees. Nothing that is examined here is imported or run."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("swarm", "averaging", "peer")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One imported name, as "package.module.name". ``is_lazy``: not done when the module is imported."""

    name: str
    line: int
    is_lazy: bool


@dataclass(frozen=True)
class Module:
    """One source file. ``path`` is relative to the repository, with slashes."""

    path: str
    text: str

    @property
    def room(self) -> str:
        return self.path.partition("/")[0]

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        """What a relative import starts from."""
        return self.name if self.path.endswith("/__init__.py") else self.name.rpartition(".")[0]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def imports(self) -> list[Import]:
        """Every import, also those inside functions and ``if TYPE_CHECKING``."""
        return list(self._imports(self.tree, False))

    def _imports(self, node: ast.AST, is_lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, is_lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = self._base(node)
            yield from (Import(f"{base}.{alias.name}", node.lineno, is_lazy) for alias in node.names)
        lazy_here = isinstance(node, Function) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        for child in ast.iter_child_nodes(node):
            yield from self._imports(child, is_lazy or lazy_here)

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.package.split(".")
        return ".".join(parts[: len(parts) - node.level + 1] + ([node.module] if node.module else []))

    @cached_property
    def _aliases(self) -> dict[str, str]:
        names: dict[str, str | None] = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                names |= {
                    alias.asname or alias.name.partition(".")[0]: alias.asname and alias.name
                    for alias in node.names
                }
            elif isinstance(node, ast.ImportFrom):
                names |= {
                    alias.asname or alias.name: f"{self._base(node)}.{alias.name}" for alias in node.names
                }
        return {short: full or short for short, full in names.items()}

    def dotted(self, node: ast.AST) -> str:
        """``t.monotonic`` as "time.monotonic" after ``import time as t``; "" for what is no plain name."""
        if isinstance(node, ast.Name):
            return self._aliases.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self.dotted(node.value)}.{node.attr}"
        return ""

    @cached_property
    def uses(self) -> list[tuple[str, int]]:
        """Every name and attribute that is read, as (dotted name, line)."""
        return [
            (self.dotted(node), node.lineno)
            for node in self.nodes
            if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load)
        ]

    def definitions(self) -> Iterator[tuple[str, Function | ast.ClassDef]]:
        """Every function and class, with its name inside the module ("Class.method")."""
        yield from _definitions(self.tree, "")


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            yield prefix + child.name, child
            yield from _definitions(child, f"{prefix}{child.name}.")
        else:
            yield from _definitions(child, prefix)


def _read() -> tuple[Module, ...]:
    paths = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return tuple(Module(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths)


MODULES = _read()

Rule = Callable[[Module], Iterable[str]]
"""A rule yields one sentence per offence: "path:line: what"."""


def keep(rule: Rule) -> None:
    """Fail with every offence against ``rule`` in the three rooms."""
    offences = [offence for module in MODULES for offence in rule(module)]
    if offences:
        raise AssertionError("\n" + "\n".join(offences))
