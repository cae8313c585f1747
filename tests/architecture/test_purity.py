"""Folders that are pure touch no file, clock, chance or environment. Checked on syntax trees."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("journal", "store", "pipeline", "tools")

# Folders that are pure, and the libraries that they may import besides `PURE_MODULES`. Their first docstring says so.
PURE: dict[str, set[str]] = {
    "pipeline/proof": {"csv", "statistics"},
    "store/base": {"numpy", "numpy.typing", "PIL"},
    "store/base/geometry": {"numpy", "numpy.typing"},
    "store/manifest": set(),
    "store/formats": {"numpy", "numpy.typing"},
    "store/domain": set(),
    "store/policy": set(),
    "store/trust": {
        "cryptography.exceptions",
        "cryptography.hazmat.primitives.asymmetric.ed25519",
        "hmac",
    },
    "tools/analysis": {"numpy", "numpy.typing"},
    "tools/forensics": {"numpy", "numpy.typing", "shlex", "statistics"},
    "tools/forensics/ground": {"numpy", "numpy.typing", "statistics"},
}
# Files of pure folders that ask the system, and for what.
NOT_PURE = {
    "store/base/clock.py",  # the time
    "store/trust/key_files.py",  # reads and writes key files
    "store/trust/rollback_protection.py",  # likewise floor files
    "tools/analysis/rerun.py",  # runs the steps of a build again
    "tools/forensics/sources.py",  # opens journals, bundles and segments for the others
}
# What pure folders may import besides each other: errors are only defined there, and these files compute only.
PURE_ELSEWHERE = {
    "journal/errors.py",
    "journal/record.py",
    "pipeline/build/report.py",
    "pipeline/embed/cells.py",
    "pipeline/errors.py",
    "pipeline/planning/area_report.py",
    "pipeline/request/area.py",
    "pipeline/request/geometry.py",
    "pipeline/tiles/chunks.py",
    "pipeline/tiles/grid.py",
    "pipeline/tiles/retrieval_units.py",
    "pipeline/tiles/tile_columns.py",
    "pipeline/tiles/wanted.py",
    "store/toml.py",
    "store/backports.py",
    "store/errors.py",
    "tools/output/page.py",
    "tools/output/plan.py",
    "tools/output/proof.py",
    "tools/output/recorded_value.py",
    "tools/output/render.py",
    "tools/output/sanitize.py",
}

PURE_MODULES = {
    *(
        "__future__",
        "base64",
        "bisect",
        "collections",
        "collections.abc",
        "dataclasses",
        "datetime",
        "decimal",
        "difflib",
    ),
    *(
        "enum",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "itertools",
        "json",
        "math",
        "operator",
        "re",
        "string",
    ),
    *("struct", "textwrap", "types", "typing"),
}
# Names whose use is input, output, time, chance or environment, whatever module they come from.
IMPURE_CALLS = {"open", "input", "print", "exec", "eval", "compile", "__import__", "breakpoint"}
IMPURE_ATTRIBUTES = {
    *(
        "read_bytes",
        "read_text",
        "write_bytes",
        "write_text",
        "open",
        "exists",
        "is_file",
        "is_dir",
        "iterdir",
        "glob",
    ),
    *(
        "rglob",
        "stat",
        "lstat",
        "resolve",
        "absolute",
        "cwd",
        "home",
        "expanduser",
        "mkdir",
        "unlink",
        "touch",
        "chmod",
    ),
    *("symlink_to", "hardlink_to", "readlink", "rmdir", "samefile", "environ", "getenv", "urandom"),
    *(
        "now",
        "today",
        "utcnow",
        "time_ns",
        "monotonic",
        "monotonic_ns",
        "perf_counter",
        "fromfile",
        "tofile",
        "memmap",
    ),
    *("save", "savez", "loadtxt", "genfromtxt", "default_rng", "rand", "randn"),
}


def tree_of(path):
    return ast.parse((ROOT / path).read_text(), str(path))


def pure_files():
    """Paths of the files of pure folders, relative to the root."""
    found = [
        str(path.relative_to(ROOT))
        for folder in sorted(PURE)
        for path in sorted((ROOT / folder).glob("*.py"))
        if path.name != "__init__.py"
    ]
    return [path for path in found if path not in NOT_PURE]


def imports_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module


def is_ours(module):
    return module.split(".")[0] in PACKAGES


def file_of(module):
    path = Path(*module.split("."))
    return str(path / "__init__.py") if (ROOT / path).is_dir() else f"{path}.py"


@pytest.mark.parametrize("folder", sorted(PURE))
def test_a_pure_folder_says_so(folder):
    assert "pure" in ast.get_docstring(tree_of(f"{folder}/__init__.py")).lower()


@pytest.mark.parametrize("path", pure_files())
def test_pure_files_are_pure(path):
    tree = tree_of(path)
    for module in imports_of(tree):
        assert is_ours(module) or module in PURE_MODULES | PURE[str(Path(path).parent)], (
            f"{path} imports {module}"
        )
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IMPURE_CALLS, f"{path}:{node.lineno} calls {node.func.id}"
        if isinstance(node, ast.Attribute):
            assert node.attr not in IMPURE_ATTRIBUTES, f"{path}:{node.lineno} uses .{node.attr}"


def our_modules_of(tree):
    """The files of our own that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (file_of(alias.name) for alias in node.names if is_ours(alias.name))
        elif isinstance(node, ast.ImportFrom) and is_ours(node.module):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                inner_file = Path(*inner.split(".")).with_suffix(".py")
                yield str(inner_file) if (ROOT / inner_file).is_file() else file_of(node.module)


@pytest.mark.parametrize("path", pure_files())
def test_pure_files_stand_on_pure_files(path):
    impure = {*our_modules_of(tree_of(path))} - {*pure_files()} - PURE_ELSEWHERE
    assert impure == set()
