"""The house's rules of import, held by parsing: nothing is imported to check them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "sparsetune"
GROUND = {"config", "errors", "randomness", "records"}
MODELS = {"architectures", "dsee", "earlybert", "pruning"}
# Room -> the other rooms that it may import. A room is a folder or a module of the package.
ALLOWED = {
    "errors": set(),
    "randomness": set(),
    "records": {"errors", "randomness"},
    "architectures": {"errors", "randomness", "records"},
    "config": {"errors", "randomness", "records", "architectures"},
    "cost": {*GROUND, "architectures"},
    "pruning": {"errors", "randomness", "records", "architectures", "dsee"},
    "dsee": {"errors", "randomness", "records", "architectures", "pruning"},
    "earlybert": {"errors", "randomness", "records", "architectures", "pruning", "dsee"},
    "export": {"errors", "randomness", "records", *MODELS},
    "counting": {"errors", "cost", *MODELS},
    "saving": {"errors", "records", *MODELS},
    "trainer": {"errors", "records", "saving", *MODELS},
    "api": {"errors", "export", "counting", "saving", *MODELS},
    "data": {*GROUND, "architectures"},
    "methods": {*GROUND, *MODELS, "cost"},
    "training": {*GROUND, *MODELS, "cost", "methods", "data"},
    "evaluation": {*GROUND, *MODELS, "cost", "data"},
    "reporting": GROUND,
    "tracking": GROUND,
    "stages": {*GROUND, *MODELS, "cost", "data", "methods", "training", "evaluation", "reporting",
               "tracking"},
    "warm": {"errors", "tracking", "architectures"},
    "cli": {*GROUND, "methods", "stages", "tracking", "warm", "__init__"},
    "__init__": {"api", "trainer", "errors"},
}  # fmt: skip
HEAVY = {"torch", "transformers", "datasets", "mlflow", "peft", "sklearn"}
# Neither the workflow nor a reader of records pays for these at import.
LIGHT = {
    "config", "records", "errors", "randomness", "cost", "reporting", "warm", "cli", "__init__",
}  # fmt: skip


def room_of(path):
    """The folder right below the package, or the module that stands there."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """(module, whether at import time) of every import in a file, those for types left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    inside = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((name, id(node) not in inside) for name in names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards_only(path):
    room = room_of(path)
    for name, _ in imports(path):
        head, *rest = name.split(".")
        if head != "sparsetune":
            continue
        other = (
            rest[0]
            if (PACKAGE / rest[0]).is_dir() or (PACKAGE / f"{rest[0]}.py").is_file()
            else "__init__"
        )
        if other != room:
            assert other in ALLOWED[room], f"{room} imports {name}"


@pytest.mark.parametrize(
    "path", [p for p in modules() if room_of(p) in LIGHT], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_light_rooms_import_nothing_heavy_at_their_top(path):
    heavy = [name for name, top in imports(path) if top and name.split(".")[0] in HEAVY]
    assert not heavy


def test_every_room_is_in_the_table_and_no_module_has_a_second_name():
    assert {room_of(path) for path in modules()} == ALLOWED.keys()
    banned = {"utils", "helpers", "misc", "common"}
    assert not banned & {path.stem for path in modules()}


def test_rooms_of_mathematics_do_not_lean_on_each_other_in_a_circle():
    edges = {room: set() for room in ALLOWED}
    for path in modules():
        for name, top in imports(path):
            rest = name.split(".")[1:2]
            if top and name.startswith("sparsetune.") and rest[0] in ALLOWED:
                edges[room_of(path)].add(rest[0])
    order = []
    while edges:
        free = {room for room, needs in edges.items() if not (needs - {room}) & edges.keys()}
        assert free, f"a circle among {sorted(edges)}"
        order += sorted(free)
        edges = {room: needs for room, needs in edges.items() if room not in free}
    assert order.index("architectures") < order.index("stages")


@pytest.mark.parametrize(
    "module",
    [
        "sparsetune",
        "sparsetune.config",
        "sparsetune.records",
        "sparsetune.cli",
        "sparsetune.cost.run",
        "sparsetune.architectures.families",
    ],
)
def test_module_is_imported_without_the_heavy_libraries(module):
    code = f"import sys, {module}; print(sorted({HEAVY} & sys.modules.keys()))"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert told.stdout.strip() == "[]"
