"""How large things may become, and what they may not do at all.

Good code and bad differ in their tails, so tails are limited.
"""

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.source import MODULES, Function, Module, Rule, keep

MODULE_LINES = 600
FUNCTION_LINES = 60
"""Without the docstring."""
PARAMETERS = 6
"""Without self and cls."""
BRANCHES = 12
"""One, and one more for each place where the path of a function forks (McCabe 1976)."""
ATTRIBUTES = 12
"""Distinct attributes that the methods of a class assign to self."""
FIELDS = 10
"""Annotated fields in the body of a class."""
PACKED = 3
"""Assignments of several values to several names in one statement, per 1,000 lines: `a, b = x, y` hides two
steps in one."""

FORKS = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.IfExp,
    ast.comprehension,
    ast.match_case,
)


def modules_are_short(module: Module) -> Iterator[str]:
    lines = len(module.text.splitlines())
    if lines > MODULE_LINES:
        yield f"{module.path}: {lines} lines, at most {MODULE_LINES}"


def functions_are_short(module: Module) -> Iterator[str]:
    for name, node in module.definitions():
        if isinstance(node, Function) and (lines := _length(node)) > FUNCTION_LINES:
            yield f"{module.path}:{node.lineno}: {name} has {lines} lines, at most {FUNCTION_LINES}"


def functions_are_simple(module: Module) -> Iterator[str]:
    for name, node in module.definitions():
        if isinstance(node, Function) and (count := _branches(node)) > BRANCHES:
            yield f"{module.path}:{node.lineno}: {name} has {count} branches, at most {BRANCHES}"


def classes_have_few_attributes(module: Module) -> Iterator[str]:
    for name, node in module.definitions():
        if isinstance(node, ast.ClassDef) and (count := len(_attributes(node))) > ATTRIBUTES:
            yield f"{module.path}:{node.lineno}: {name} has {count} attributes, at most {ATTRIBUTES}"


def values_have_few_fields(module: Module) -> Iterator[str]:
    for name, node in module.definitions():
        if isinstance(node, ast.ClassDef) and (count := _fields(node)) > FIELDS:
            yield f"{module.path}:{node.lineno}: {name} has {count} fields, at most {FIELDS}"


def parameters_are_few(module: Module) -> Iterator[str]:
    for name, node in module.definitions():
        if isinstance(node, Function) and (count := len(_parameters(node))) > PARAMETERS:
            yield f"{module.path}:{node.lineno}: {name} takes {count} parameters, at most {PARAMETERS}"


def tasks_have_owners(module: Module) -> Iterator[str]:
    """A task that nobody holds may be collected while it runs, and its error is never seen; a `TaskGroup`
    holds its own."""
    groups = _task_groups(module)
    for node in module.nodes:
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Attribute | ast.Name)
        ):
            owner, _, name = module.dotted(node.value.func).rpartition(".")
            if name in ("create_task", "ensure_future") and owner not in groups:
                yield f"{module.path}:{node.lineno}: the task of {owner or name} belongs to nobody"


def errors_are_not_swallowed(module: Module) -> Iterator[str]:
    for node in module.nodes:
        if isinstance(node, ast.ExceptHandler) and all(_says_nothing(line) for line in node.body):
            yield f"{module.path}:{node.lineno}: an error is caught and forgotten"
        if isinstance(node, ast.With | ast.AsyncWith) and any(
            _suppresses_all(item.context_expr, module) for item in node.items
        ):
            yield f"{module.path}:{node.lineno}: suppresses every error"


def broad_excepts_have_a_reason(module: Module) -> Iterator[str]:
    """The linter finds them (BLE001); whoever silences it writes why."""
    for number, line in enumerate(module.text.splitlines(), 1):
        _, found, reason = line.partition("# noqa: BLE001")
        if found and len(reason.strip(" -").split()) < 3:
            yield f"{module.path}:{number}: catches everything, without a word why"


def _length(node: Function | ast.ClassDef) -> int:
    docstring = node.body[0] if ast.get_docstring(node) else None
    documented = (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0
    return (node.end_lineno or node.lineno) - node.lineno + 1 - documented


def _branches(node: Function) -> int:
    forks = sum(isinstance(child, FORKS) for child in ast.walk(node))
    joined = sum(len(child.values) - 1 for child in ast.walk(node) if isinstance(child, ast.BoolOp))
    return 1 + forks + joined


def _attributes(node: ast.ClassDef) -> set[str]:
    return {
        child.attr
        for child in ast.walk(node)
        if isinstance(child, ast.Attribute)
        and isinstance(child.ctx, ast.Store)
        and isinstance(child.value, ast.Name)
        and child.value.id == "self"
    }


def _fields(node: ast.ClassDef) -> int:
    annotated = [child for child in node.body if isinstance(child, ast.AnnAssign)]
    return sum("ClassVar" not in ast.unparse(child.annotation) for child in annotated)


def _is_packed(node: ast.AST) -> bool:
    if not isinstance(node, ast.Assign):
        return False
    return isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)


def _parameters(node: Function) -> list[str]:
    given = [
        *node.args.posonlyargs,
        *node.args.args,
        *node.args.kwonlyargs,
        node.args.vararg,
        node.args.kwarg,
    ]
    names = [argument.arg for argument in given if argument]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def _task_groups(module: Module) -> set[str]:
    """Names that stand for an `asyncio.TaskGroup`: of a with block, of an annotated parameter, and attributes
    set from those."""
    groups = {
        module.dotted(item.optional_vars)
        for node in module.nodes
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if item.optional_vars and "TaskGroup" in ast.unparse(item.context_expr)
    }
    groups |= {
        node.arg
        for node in module.nodes
        if isinstance(node, ast.arg) and node.annotation and "TaskGroup" in ast.unparse(node.annotation)
    }
    groups |= {
        module.dotted(node.target)
        for node in module.nodes
        if isinstance(node, ast.AnnAssign) and "TaskGroup" in ast.unparse(node.annotation)
    }
    for node in module.nodes:
        if isinstance(node, ast.Assign):
            groups |= {module.dotted(to) for to, value in _assigned(node) if module.dotted(value) in groups}
    return groups | {f"self.{name}" for name in groups}


def _assigned(node: ast.Assign) -> Iterator[tuple[ast.expr, ast.expr]]:
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=False)
        else:
            yield target, node.value


def _says_nothing(line: ast.stmt) -> bool:
    return isinstance(line, ast.Pass | ast.Continue) or (
        isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)
    )


def _suppresses_all(context: ast.expr, module: Module) -> bool:
    return (
        isinstance(context, ast.Call)
        and module.dotted(context.func) == "contextlib.suppress"
        and any(module.dotted(error) in ("Exception", "BaseException") for error in context.args)
    )


def cycles(modules: tuple[Module, ...], *, also_lazy: bool) -> list[list[str]]:
    """Modules that import each other, directly or around a corner: strongly connected components (Tarjan
    1972)."""
    names = {module.name for module in modules}
    graph = {module.name: sorted(_targets(module, names, also_lazy)) for module in modules}
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in graph[name]:
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            ring = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(ring) > 1:
                found.append(sorted(ring))

    for name in graph:
        if name not in order:
            visit(name)
    return found


def _targets(module: Module, names: set[str], also_lazy: bool) -> Iterator[str]:
    for found in module.imports:
        if also_lazy or not found.is_lazy:
            target = found.name if found.name in names else found.name.rpartition(".")[0]
            if target in names and target != module.name:
                yield target


RULES: list[Rule] = [
    modules_are_short,
    functions_are_short,
    functions_are_simple,
    classes_have_few_attributes,
    values_have_few_fields,
    parameters_are_few,
    tasks_have_owners,
    errors_are_not_swallowed,
    broad_excepts_have_a_reason,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_budget_holds(rule: Rule) -> None:
    keep(rule)


def test_hardly_any_assignment_is_packed() -> None:
    packed = [
        f"{module.path}:{node.lineno}"
        for module in MODULES
        for node in module.nodes
        if isinstance(node, ast.Assign) and _is_packed(node)
    ]
    lines = sum(len(module.text.splitlines()) for module in MODULES)
    assert 1000 * len(packed) <= PACKED * lines, "\n" + "\n".join(packed)


@pytest.mark.parametrize("also_lazy", [False, True], ids=["eager", "lazy"])
def test_no_modules_import_each_other(also_lazy: bool) -> None:
    assert cycles(MODULES, also_lazy=also_lazy) == []


ATTRIBUTES_TOO_MANY = "".join(f"        self.x{n} = 1\n" for n in range(13))
LONG = "\n".join(["    x = 1"] * 61)
OWNED = "    def g(self):\n        self.t.create_task(h())"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (modules_are_short, "\n" * 601),
        (functions_are_short, f"async def f():\n{LONG}"),
        (functions_are_simple, "def f(x):\n" + "    if x: ...\n" * 12),
        (functions_are_simple, "def f(x):\n    return " + " or ".join(["x"] * 13)),
        (classes_have_few_attributes, "class A:\n    def f(self):\n" + ATTRIBUTES_TOO_MANY),
        (values_have_few_fields, "class A:\n" + "".join(f"    x{n}: int = 0\n" for n in range(11))),
        (parameters_are_few, "def f(a, b, c, d, *e, f, **g): ..."),
        (tasks_have_owners, "import asyncio\nasync def f():\n    asyncio.create_task(f())"),
        (tasks_have_owners, "async def f(loop):\n    loop.create_task(f(loop))"),
        (errors_are_not_swallowed, "try:\n    f()\nexcept OSError:\n    pass"),
        (errors_are_not_swallowed, "import contextlib\nwith contextlib.suppress(Exception):\n    f()"),
        (broad_excepts_have_a_reason, "try:\n    f()\nexcept Exception:  # noqa: BLE001\n    g()"),
    ],
)
def test_an_offence_is_found(rule: Rule, text: str) -> None:
    assert list(rule(Module("swarm/a.py", text)))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (functions_are_short, 'def f():\n    """' + "\n" * 100 + '    """\n    return 1'),
        (parameters_are_few, "class A:\n    def f(self, a, b, c, d, e, f): ..."),
        (functions_are_simple, "def f(x):\n" + "    if x: ...\n" * 11),
        (classes_have_few_attributes, "class A:\n    def f(self):\n" + "        self.x = 1\n" * 20),
        (values_have_few_fields, "class A:\n" + "".join(f"    x{n}: ClassVar[int] = 0\n" for n in range(11))),
        (
            tasks_have_owners,
            "import asyncio\nasync def f():\n    async with asyncio.TaskGroup() as tasks:\n"
            "        tasks.create_task(f())",
        ),
        (tasks_have_owners, f"class A:\n    def f(self, tasks: TaskGroup):\n        self.t = tasks\n{OWNED}"),
        (
            tasks_have_owners,
            "import asyncio\nasync def f():\n    task = asyncio.create_task(f())\n    await task",
        ),
        (errors_are_not_swallowed, "try:\n    f()\nexcept OSError as error:\n    raise Weather() from error"),
    ],
)
def test_what_is_within_the_budget_is_no_offence(rule: Rule, text: str) -> None:
    assert list(rule(Module("swarm/a.py", text))) == []


def test_a_ring_of_imports_is_found_also_where_one_link_hides_in_a_function() -> None:
    ring = (
        Module("swarm/a.py", "from . import b"),
        Module("swarm/b.py", "def f():\n    from .c import x"),
        Module("swarm/c.py", "import swarm.a"),
    )
    assert cycles(ring, also_lazy=False) == []
    assert cycles(ring, also_lazy=True) == [["swarm.a", "swarm.b", "swarm.c"]]
