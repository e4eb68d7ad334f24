"""Whoever meets a public name learns what it promises and what it takes, without reading its code."""

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.source import Function, Module, Rule, keep


def modules_say_what_they_are(module: Module) -> Iterator[str]:
    if not ast.get_docstring(module.tree) and not module.path.endswith("__main__.py"):
        yield f"{module.path}: has no docstring" + (
            ": a package's is the map of it" if module.path.endswith("__init__.py") else ""
        )


def public_names_are_documented(module: Module) -> Iterator[str]:
    for name, node in _public(module):
        if not ast.get_docstring(node):
            yield f"{module.path}:{node.lineno}: {name} does not say what it promises"


def public_names_are_typed(module: Module) -> Iterator[str]:
    for name, node in _public(module):
        if isinstance(node, Function):
            untyped = [
                argument.arg
                for argument in _arguments(node)
                if not argument.annotation and argument.arg not in ("self", "cls")
            ]
            untyped += [] if node.returns else ["its result"]
            if untyped:
                yield f"{module.path}:{node.lineno}: {name} does not say the type of {', '.join(untyped)}"


def _public(module: Module) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """What others may use: no underscore anywhere in the name, not inside a function, not an overload."""
    inside = tuple(f"{name}." for name, node in module.definitions() if isinstance(node, Function))
    for name, node in module.definitions():
        is_private = any(part.startswith("_") for part in name.split("."))
        is_overload = any(module.dotted(decorator).endswith("overload") for decorator in node.decorator_list)
        if not (is_private or is_overload or name.startswith(inside)):
            yield name, node


def _arguments(node: Function) -> list[ast.arg]:
    given = [
        *node.args.posonlyargs,
        *node.args.args,
        *node.args.kwonlyargs,
        node.args.vararg,
        node.args.kwarg,
    ]
    return [argument for argument in given if argument]


RULES: list[Rule] = [modules_say_what_they_are, public_names_are_documented, public_names_are_typed]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_everywhere(rule: Rule) -> None:
    keep(rule)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (modules_say_what_they_are, "x = 1"),
        (public_names_are_documented, "class A:\n    '''Said.'''\n    def f(self): ..."),
        (public_names_are_documented, "class A: ..."),
        (public_names_are_typed, "def f(a: int, *b) -> None: ..."),
        (public_names_are_typed, "async def f(): ..."),
    ],
)
def test_an_offence_is_found(rule: Rule, text: str) -> None:
    assert list(rule(Module("swarm/a.py", text)))


def test_what_is_private_is_its_own_business() -> None:
    private = "class _A:\n    def f(self, a): ...\ndef _g(a): ...\n"
    text = private + "class B:\n    '''Said.'''\n    def __init__(self, a): ...\n"
    assert [
        *public_names_are_documented(Module("swarm/a.py", text)),
        *public_names_are_typed(Module("swarm/a.py", text)),
    ] == []
