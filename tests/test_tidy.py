"""Style as a test: what a reviewer would otherwise have to say again and again.

Time, chance, sockets and files are reached through the seams of `magnetar.runtime` only, so the
calls that would go around them are refused here by name. The edges of the system (the seams
themselves, the CLI, the mains, and what wraps kazoo and RocksDB) may call them.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = ("client/magnetar", "metadata", "ledger", "bookie", "tenants", "broker", "server")
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70

EDGES = (
    "client/magnetar/runtime/", "client/magnetar/cli/", "server/",
    "metadata/zookeeper.py", "metadata/rocks_backend.py", "bookie/rocks_index.py",
)
BANNED = {
    "time.time": "Clock.wall_ms", "time.time_ns": "Clock.wall_ms",
    "time.monotonic": "Clock.monotonic_s", "time.monotonic_ns": "Clock.monotonic_s",
    "time.perf_counter": "Clock.monotonic_s", "time.sleep": "Clock.sleep",
    "asyncio.sleep": "Clock.sleep", "datetime.now": "Clock.wall_ms",
    "datetime.utcnow": "Clock.wall_ms", "os.urandom": "an explicit random.Random",
    "uuid.uuid4": "an explicit random.Random", "uuid.uuid1": "an explicit random.Random",
    "asyncio.open_connection": "Network.connect", "asyncio.start_server": "Network.listen",
    "asyncio.to_thread": "the seams: threads cannot be simulated",
}
FILE_CALLS = {"open", "os.open", "os.rename", "os.replace", "os.remove", "os.unlink"}
BANNED_MODULES = {"secrets": "an explicit random.Random", "socket": "Network"}
RANDOM_CLASSES = {"Random", "SystemRandom"}
EXCEPTIONS = {
    # Repositories take no clock; the loop's own timers are virtual in the simulator too.
    ("metadata", "asyncio.sleep"),
}

PATH_ROOTS = (
    r"/(cluster|policies|tenants|topics|partitioned|generations|ledgers|bookies|brokers|locks)(/|$)"
)
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b")
NOT_OURS = re.compile(r"/work/|/tmp/plan|\bDESIGN\b|INTERFACES\.md|(?<![\w&/`])#\d+\b")


def _is_generated(path: Path) -> bool:
    return "_pb2" in path.name


def _tracked(*suffixes: str) -> list[Path]:
    """The project's own files, sorted; nothing hidden, built or installed."""
    skipped = {"build", "dist", "node_modules"}
    found = []
    for folder, names, files in os.walk(REPOSITORY):
        names[:] = sorted(
            name for name in names
            if not name.startswith((".", "__pycache__")) and name not in skipped
            and not name.endswith(".egg-info")
        )
        found += [Path(folder, name) for name in sorted(files) if name.endswith(suffixes)]
    return [path for path in found if not _is_generated(path)]


def _python_of_rooms() -> list[Path]:
    roots = tuple(f"{room}/" for room in ROOMS)
    return [path for path in _tracked(".py") if _shown(path).startswith(roots)]


def _shown(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def _dotted(node: ast.expr) -> str:
    """`a.b.c` for an attribute chain of names, else ``."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _complaint(path: Path, node: ast.expr | ast.stmt, text: str) -> str:
    return f"{_shown(path)}:{node.lineno}: {text}"


def _expect_none(complaints: Iterator[str]) -> None:
    found = list(complaints)
    assert not found, "\n" + "\n".join(found)


def test_files_are_short() -> None:
    def complaints() -> Iterator[str]:
        for path in _tracked(".py"):
            lines = path.read_text().count("\n")
            if lines > FILE_LINES_MAX:
                yield f"{_shown(path)}: {lines} lines, above {FILE_LINES_MAX}"

    _expect_none(complaints())


def test_functions_fit_a_screen() -> None:
    def complaints() -> Iterator[str]:
        for path in _python_of_rooms():
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    if lines > FUNCTION_LINES_MAX:
                        yield _complaint(path, node, f"{node.name} has {lines} lines")

    _expect_none(complaints())


def _calls_around_the_seams(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    yields = {
        call.func for call in ast.walk(tree)
        if isinstance(call, ast.Call) and _dotted(call.func) == "asyncio.sleep"
        and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
    }
    for node in ast.walk(tree):
        if node in yields:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in BANNED_MODULES:
                    yield node, f"import {alias.name}: use {BANNED_MODULES[alias.name]}"
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in BANNED:
                    yield node, f"{name}: use {BANNED[name]}"
                elif node.module in BANNED_MODULES:
                    yield node, f"{name}: use {BANNED_MODULES[node.module or '']}"
                elif node.module == "random" and alias.name not in RANDOM_CLASSES:
                    yield node, f"{name}: use an explicit random.Random"
        elif isinstance(node, ast.Call) and _dotted(node.func) in FILE_CALLS:
            yield node, f"{_dotted(node.func)}: use Disk"
        elif isinstance(node, ast.Attribute):
            name = _dotted(node)
            last_two = ".".join(name.split(".")[-2:])
            if last_two in BANNED:
                yield node, f"{name}: use {BANNED[last_two]}"
            elif name == f"random.{node.attr}" and node.attr not in RANDOM_CLASSES:
                yield node, f"{name}: use an explicit random.Random"


def test_time_chance_and_sockets_are_reached_through_the_seams() -> None:
    def complaints() -> Iterator[str]:
        for path in _python_of_rooms():
            if _shown(path).startswith(EDGES):
                continue
            tree = ast.parse(path.read_text())
            for node, text in _calls_around_the_seams(tree):
                # `random` is also what a random.Random argument is called.
                is_argument = isinstance(node, ast.Attribute) and text.startswith("random.")
                if is_argument and not _module_random_is_meant(tree, node):
                    continue
                if (_shown(path).partition("/")[0], text.partition(":")[0]) in EXCEPTIONS:
                    continue
                yield _complaint(path, node, text)

    _expect_none(complaints())


def _module_random_is_meant(tree: ast.Module, node: ast.expr | ast.stmt) -> bool:
    """The module is imported, and no enclosing function takes an argument of that name."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    if not any(alias.name == "random" for node in imports for alias in node.names):
        return False
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if function.lineno <= node.lineno <= (function.end_lineno or 0):
            arguments = function.args
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            if any(argument.arg == "random" for argument in named):
                return False
    return True


def test_only_the_cli_and_the_mains_print() -> None:
    def complaints() -> Iterator[str]:
        for path in _python_of_rooms():
            if _shown(path).startswith(("client/magnetar/cli/", "server/")):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and _dotted(node.func) == "print":
                    yield _complaint(path, node, "print; log, or raise")

    _expect_none(complaints())


def test_metadata_paths_are_built_in_one_file() -> None:
    def complaints() -> Iterator[str]:
        for path in _python_of_rooms():
            if _shown(path) == "metadata/paths.py" or path.stem in ("http", "rest"):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                    continue
                if re.match(PATH_ROOTS, node.value):
                    yield _complaint(path, node, f"{node.value!r}: build it in paths.py")

    _expect_none(complaints())


def test_nothing_is_left_unfinished_and_the_text_is_the_projects_own() -> None:
    def complaints() -> Iterator[str]:
        for path in _tracked(".py", ".md", ".toml", ".sh", ".proto"):
            if path == Path(__file__).resolve():
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if UNFINISHED.search(line) or NOT_OURS.search(line):
                    yield f"{_shown(path)}:{number}: {line.strip()}"

    _expect_none(complaints())


def test_every_package_says_what_it_is() -> None:
    def complaints() -> Iterator[str]:
        for path in _python_of_rooms():
            tree = ast.parse(path.read_text())
            if not ast.get_docstring(tree) and (tree.body or path.name == "__init__.py"):
                yield f"{_shown(path)}: no docstring says what it is for"
        for folder in sorted({path.parent for path in _python_of_rooms()}):
            if not (folder / "__init__.py").exists():
                yield f"{_shown(folder)}: no __init__.py"

    _expect_none(complaints())


def test_test_folders_are_packages() -> None:
    folders = {path.parent for path in _tracked(".py") if _shown(path).startswith("tests/")}

    missing = [_shown(folder) for folder in sorted(folders)
               if not (folder / "__init__.py").exists()]

    assert not missing


def test_both_distributions_have_one_version() -> None:
    server = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    source = (REPOSITORY / "client/magnetar/__init__.py").read_text()

    found = re.search(r'__version__ = "([^"]+)"', source)

    assert found is not None
    assert server["version"] == found[1]
    assert f"magnetar=={found[1]}" in server["dependencies"]


def test_links_between_documents_lead_somewhere() -> None:
    def complaints() -> Iterator[str]:
        for path in _tracked(".md"):
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
                if "://" not in target and not (path.parent / target).exists():
                    yield f"{_shown(path)}: nothing at {target}"

    _expect_none(complaints())


def test_files_that_documents_name_exist() -> None:
    roots = "|".join(re.escape(root) for root in (*ROOMS, "proto", "tests", "scripts", "docs"))
    named = re.compile(rf"`((?:{roots})/[\w./-]*)`")

    def complaints() -> Iterator[str]:
        for path in _tracked(".md"):
            for name in named.findall(path.read_text()):
                if not (REPOSITORY / name).exists():
                    yield f"{_shown(path)}: there is no {name}"

    _expect_none(complaints())


def test_python_in_documents_compiles() -> None:
    for path in _tracked(".md"):
        for block in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.S | re.M):
            compile(block, _shown(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    shutil.copytree(REPOSITORY / "proto", tmp_path / "proto")
    for folder in ("client/magnetar/wire", "metadata"):
        if (REPOSITORY / folder).exists():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=ignored)
    committed = {
        path.relative_to(tmp_path): path.read_text()
        for path in sorted(tmp_path.rglob("*_pb2*.py*"))
    }
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    subprocess.run(
        ["bash", "proto/generate.sh"], cwd=tmp_path, check=True, capture_output=True,
        env={**os.environ, "PATH": tools, "PYTHON": sys.executable},
    )

    assert committed
    generated = {
        path.relative_to(tmp_path): path.read_text()
        for path in sorted(tmp_path.rglob("*_pb2*.py*"))
    }
    assert generated == committed, "run `make proto` and commit what it wrote"
