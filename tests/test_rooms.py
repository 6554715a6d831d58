"""The rooms' import rule: they run downwards, from orchestration, which sees all, to features, which stands alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "features": set[str](),
    "infra": {"features"},
    "store": {"features", "infra"},
    "speed": {"features", "infra", "store", "batch"},
    "batch": {"features", "infra", "store"},
    "models": {"features", "infra", "store", "batch"},
    "monitoring": {"features", "infra", "store", "batch", "models"},
    "serving": {"features", "infra", "store", "batch", "models", "monitoring"},
    "orchestration": {"features", "infra", "store", "speed", "batch", "models", "monitoring", "serving", "examples"},
    "braid": {"features"},
    "examples": {"braid"},
}


def imports_of(path: Path) -> set[str]:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported.add(node.module.split(".")[0])
    return imported


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    modules = list((ROOT / room).rglob("*.py"))
    assert modules
    wrong = {
        str(path.relative_to(ROOT)): sorted(beyond)
        for path in modules
        if (beyond := (imports_of(path) & set(ALLOWED)) - ALLOWED[room] - {room})
    }
    assert not wrong


def test_no_module_of_the_product_imports_a_definition() -> None:
    """The project and the settings are passed in; only the demo knows the examples."""
    for room in ALLOWED.keys() - {"examples"}:
        for path in (ROOT / room).rglob("*.py"):
            names = {
                alias.name
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
            assert not names & {"GROUPS", "SOURCE", "SETTINGS", "user_events", "user_features"}, path
            assert "examples" not in imports_of(path) or path.stem.startswith("demo"), path


def test_features_does_no_input_or_output() -> None:
    for path in (ROOT / "features").rglob("*.py"):
        assert not imports_of(path) & {"pyspark", "redis", "kafka", "duckdb", "httpx", "mlflow", "pathlib", "os", "socket"}, path


#: What a client of Redis is told to do.
COMMANDS = {
    "hset", "hget", "hmget", "hgetall", "hdel", "hkeys", "hexists", "hscan", "pipeline", "execute_command", "scan_iter", "flushdb", "flushall", "evalsha",
}  # fmt: skip


@pytest.mark.parametrize("room", sorted(set(ALLOWED) - {"store"}))
def test_no_other_room_than_the_store_speaks_redis(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        if path == ROOT / "infra" / "embedded" / "health.py":
            continue  # the supervisor's probe asks the server itself, from a room that imports no other
        assert "redis" not in imports_of(path), path
        called = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not called & COMMANDS, (path, called & COMMANDS)
