"""The naming rule: data have nouns that say which data (`rows`, `requested_ids`), never a word that fits anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.test_rooms import ALLOWED, ROOT

WORDS = {"one", "found", "said", "told", "kept", "given"}
FOLDERS = (*ALLOWED, "benchmarks", "tests")

#: Files that still have such names. Remove a file from the list when its names are renamed; add none.
NOT_YET_RENAMED = {
    "features/tiles.py",
    "features/view.py",
    "serving/contract.py",
    "serving/service.py",
    "speed/__main__.py",
    "speed/fold.py",
    "speed/offline.py",
    "speed/progress.py",
    "speed/replay.py",
    "speed/stream.py",
    "tests/end_to_end/conftest.py",
    "tests/end_to_end/test_by_hand.py",
    "tests/end_to_end/test_in_browsers.py",
    "tests/end_to_end/test_killed_training.py",
    "tests/end_to_end/test_with_a_changed_declaration.py",
    "tests/monitoring/test_consistency.py",
    "tests/serving/test_faults.py",
    "tests/serving/test_served.py",
    "tests/serving/test_service.py",
    "tests/serving/test_variants.py",
    "tests/serving/test_versions.py",
    "tests/speed/test_completeness.py",
    "tests/speed/test_disk.py",
    "tests/speed/test_fold.py",
    "tests/speed/test_replay.py",
    "tests/speed/test_storm.py",
    "tests/speed/test_stream_equals_brute_force.py",
    "tests/store/conftest.py",
    "tests/store/test_conformance.py",
    "tests/store/test_errors.py",
    "tests/store/test_failover.py",
}


def names_given_by(source: str) -> Iterator[tuple[str, int]]:
    """Every name that the source gives to data or to a function, with its line."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, node.lineno
            case ast.MatchMapping(rest=str(name)) | ast.alias(asname=str(name)):
                yield name, node.lineno


def wrong_names() -> dict[str, list[str]]:
    """File → its wrong names, each with its line."""
    wrong: dict[str, list[str]] = {}
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for name, line in names_given_by(path.read_text()):
            if name in WORDS:
                wrong.setdefault(str(path.relative_to(ROOT)), []).append(f"{name} in line {line}")
    return wrong


def test_no_data_are_named_by_a_word_that_fits_anything() -> None:
    wrong = [f"{file}: {', '.join(names)}" for file, names in wrong_names().items() if file not in NOT_YET_RENAMED]
    assert not wrong, "\n".join(["Name these data by nouns that say which data.", *wrong])


def test_the_list_of_files_that_are_not_yet_renamed_only_has_such_files() -> None:
    clean = sorted(NOT_YET_RENAMED - wrong_names().keys())
    assert not clean, "\n".join(["Remove these files from NOT_YET_RENAMED.", *clean])


@pytest.mark.parametrize(
    "source",
    [
        "one = 1",
        "one: int = 1",
        "self.one = 1",
        "def f(one): ...",
        "def one(): ...",
        "lambda *one: 1",
        "[1 for one in rows]",
        "with f() as one: ...",
        "print(one := 1)",
        "import rows as one",
        "try: ...\nexcept E as one: ...",
        "match row:\n  case {'id': one}: ...",
    ],
)
def test_every_way_to_give_a_name_is_seen(source: str) -> None:
    assert "one" in {name for name, _ in names_given_by(source)}


def test_the_use_of_a_name_is_not_counted() -> None:
    assert not {"one"} & {name for name, _ in names_given_by("f(one=row.one, **one)")}
