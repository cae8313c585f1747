"""Calls that the product never makes, and the files that may know LMDB. Checked on syntax trees."""

import ast
from pathlib import Path

import pytest

from tests.architecture.test_purity import imports_of

ROOT = Path(__file__).parents[2]
PACKAGES = ("journal", "store", "pipeline", "tools")


def tree_of(path):
    return ast.parse((ROOT / path).read_text(), str(path))


def sources(naming=""):
    """All files, or those whose text has a name in it."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path.relative_to(ROOT) for path in files if naming in path.read_text(encoding="utf-8")]


# Calls that the product never makes. A rename could hide a half-written generation; a pickle runs what it reads.
FORBIDDEN_ATTRIBUTES = {
    "rename": "renames",
    "renames": "renames",
    "renameat2": "renames",
    "read_pickle": "unpickles",
    "popen": "starts a shell",
    "getoutput": "starts a shell",
    "getstatusoutput": "starts a shell",
    "mktemp": "is a race",
}
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "commands",
}
FORBIDDEN_CALLS = {"eval", "exec"}
FORBIDDEN_OF_MODULE = {
    ("os", "replace"),
    ("os", "rename"),
    ("os", "renames"),
    ("shutil", "move"),
    ("os", "system"),
}

# A page is no part of a cache: an earlier one stays until the new one is whole.
RENAMING = {"tools/report/write_page.py"}


def findings(path, tree):
    for module in imports_of(tree):
        if module.split(".")[0] in FORBIDDEN_MODULES:
            yield f"{path}: imports {module}"
    for node in ast.walk(tree):
        if (found := forbidden(node)) is not None:
            yield f"{path}:{getattr(node, 'lineno', 0)}: {found}"


def forbidden(node):
    match node:
        case ast.Attribute(value=ast.Name(id=module), attr=name) if (module, name) in FORBIDDEN_OF_MODULE:
            return f"{module}.{name}"
        case ast.Attribute(attr=name) if name in FORBIDDEN_ATTRIBUTES:
            return f".{name} {FORBIDDEN_ATTRIBUTES[name]}"
        case ast.ImportFrom(module=module, names=names):
            return next((name.name for name in names if (module, name.name) in FORBIDDEN_OF_MODULE), None)
        case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
            return f"{name}()"
        case ast.Call(func=ast.Attribute(attr="replace"), args=[_], keywords=[]):
            # str.replace takes two; with one it is Path.replace, a rename.
            return ".replace() of a path"
        case ast.keyword(arg="shell" | "allow_pickle" as name, value=value):
            return None if isinstance(value, ast.Constant) and not value.value else f"{name}=..."
        case _:
            return None


def test_nothing_renames_unpickles_or_starts_a_shell():
    found = [finding for path in sources() for finding in findings(path, tree_of(path))]
    allowed = {finding for finding in found if finding.partition(":")[0] in RENAMING}
    assert len(allowed) == len(RENAMING)
    assert [finding for finding in found if finding not in allowed] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from shelve import open",
        "import os\nos.replace(a, b)",
        "os.rename(a, b)",
        "path.rename(b)",
        "path.replace(b)",
        "shutil.move(a, b)",
        "from os import replace",
        "eval('1')",
        "run(a, shell=True)",
        "numpy.load(a, allow_pickle=True)",
        "os.system('ls')",
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert [*findings("x.py", ast.parse(source))]


def test_the_search_finds_nothing_else():
    harmless = "text.replace('a', 'b')\nreplace(record, seq=1)\ndataclasses.replace(record, a=1)\nrun(a, shell=False)\n"
    assert [*findings("x.py", ast.parse(harmless))] == []


def test_lmdb_is_known_to_these_files_and_opened_in_one():
    """Settings that durability needs are given in one place; the others know its pages, errors and types."""
    knowing, opening = set(), set()
    for path in sources("lmdb"):
        tree = tree_of(path)
        if "lmdb" in {*imports_of(tree)}:
            knowing.add(str(path))
        if "lmdb.open" in {
            ast.unparse(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr == "open"
        }:
            opening.add(str(path))
    assert knowing == {
        f"journal/storage/{name}.py"
        for name in ("environment", "error_mapping", "integrity", "open_environment")
    }
    assert opening == {"journal/storage/open_environment.py"}


def test_links_are_refused_in_two_places():
    """Whoever opens a file that must be no link, pipe or folder calls one of them, and gets all three."""
    refusing = {
        str(path)
        for path in sources("O_NOFOLLOW")
        if any(
            isinstance(node, ast.Attribute) and node.attr == "O_NOFOLLOW" for node in ast.walk(tree_of(path))
        )
    }
    assert refusing == {"journal/regular_file.py", "store/files/regular_file.py"}
