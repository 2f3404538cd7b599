"""The house has floors: a module imports only lower ones, and floors 0-2 touch nothing of the world."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "proxy" / "flui"

FLOORS = {
    "model": 0,
    "codecs": 1,
    "framing": 1,
    "identity": 1,
    "policy": 1,
    "routing": 1,
    "resilience": 1,
    "answer": 2,
    "call": 2,
    "decide": 2,
    "splice": 2,
    "translate": 2,
    "transport": 3,
    "upstream": 3,
    "downstream": 3,
    "messaging": 3,
    "connectors": 3,
    "discovery": 3,
    "telemetry": 3,
    "runtime": 4,
}
TOP = ("__init__", "__main__")
"""Of the package itself: its version, and its command."""

WORLD = {"asyncio", "socket", "time", "logging", "random", "threading", "subprocess", "select", "signal", "uvloop", "watchfiles"}
"""What floors 0-2 do not import. `Random` may be named, as it is injected."""
MAY_OPEN = {"policy/source.py": "reading policy files is its task, which its docstring says"}

MODULES = sorted(PACKAGE.rglob("*.py"))
LOW = [path for path in MODULES if FLOORS.get(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), 9) <= 2]


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def floor_of(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in FLOORS, f"{room} has no floor: say in this table which it is"
    return FLOORS[room]


def imports(tree):
    """(module, names, line) of each import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, (), node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides its floor"
            yield node.module, tuple(alias.name for alias in node.names), node.lineno


def rooms(module, names):
    """Rooms of ours that an import leads to."""
    if module == "flui":
        return [name for name in names if name in FLOORS]
    return [module.split(".")[1]] if module.startswith("flui.") else []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_its_own_floor_and_lower_ones(path):
    if path.parent == PACKAGE and path.stem in TOP:
        return
    floor = floor_of(path)
    for module, names, line in imports(ast.parse(path.read_text())):
        for room in rooms(module, names):
            assert FLOORS[room] <= floor, f"line {line}: floor {floor} imports {module} of floor {FLOORS[room]}"


@pytest.mark.parametrize("path", LOW, ids=name_of)
def test_floors_0_to_2_never_wait_read_a_clock_log_or_open_anything(path):
    tree = ast.parse(path.read_text())
    for module, names, line in imports(tree):
        root = module.split(".")[0]
        if root == "random" and names == ("Random",):
            continue
        assert root not in WORLD, f"line {line}: imports {module}"
    for node in ast.walk(tree):
        assert not isinstance(node, (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)), f"line {node.lineno}: waits"
        if isinstance(node, ast.Call) and name_of(path) not in MAY_OPEN:
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            opens = called == "open" and isinstance(node.func, ast.Name)  # a codec's `open` begins an exchange
            opens = opens or called in {"read_text", "read_bytes", "write_text", "write_bytes"}
            assert not opens, f"line {node.lineno}: opens a file"
            assert called not in {"now", "utcnow", "today"}, f"line {node.lineno}: reads a clock"
            assert called != "print", f"line {node.lineno}: prints"


@pytest.mark.parametrize("path", LOW, ids=name_of)
def test_floors_0_to_2_stay_compilable(path):
    """What mypyc does not take: nested classes, `__getattr__`, metaclasses."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            assert not node.keywords or all(k.arg == "total" for k in node.keywords), f"line {node.lineno}: a metaclass"
            for inner in ast.walk(node):
                assert inner is node or not isinstance(inner, ast.ClassDef), f"line {inner.lineno}: a class within a class"
                if isinstance(inner, ast.FunctionDef):
                    assert inner.name not in {"__getattr__", "__getattribute__", "__setattr__"}, f"line {inner.lineno}"
        if isinstance(node, ast.FunctionDef):
            for inner in ast.walk(node):
                assert not isinstance(inner, ast.ClassDef), f"line {inner.lineno}: a class within a function"


def test_only_transport_and_listeners_touch_sockets():
    """Architecture section 5: `transport` holds the sockets; where else one is opened is named here."""
    allowed = {"downstream/listener.py", "runtime/sidecar.py", "runtime/admin.py", "runtime/local.py"}
    found = set()
    for path in MODULES:
        if any(module.split(".")[0] == "socket" for module, _, _ in imports(ast.parse(path.read_text()))):
            found.add(name_of(path))
    others = {name for name in found if not name.startswith("transport/")} - allowed
    assert all(name.startswith("runtime/") for name in others), others


def test_the_test_can_fail():
    tree = ast.parse("from flui.runtime.sidecar import Running\nimport flui.model.events\nfrom flui import splice\n")
    assert [rooms(module, names) for module, names, _ in imports(tree)] == [["runtime"], ["model"], ["splice"]]


def test_no_file_is_longer_than_500_lines():
    """Style 11."""
    assert [name_of(path) for path in MODULES if len(path.read_text().splitlines()) > 500] == []
