"""Files that are pure touch no file, clock, chance or environment; and nothing anywhere renames or unpickles.

Both are checked on syntax trees, so that a comment or a name in a text is no finding. `PURE` is the list to extend.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("journal", "store", "pipeline", "tools")

# Files that are pure, and what they may import besides `PURE_MODULES` and other pure files. Extend it with every pure
# file that is written; a file that is listed has to exist.
PURE: dict[str, set[str]] = {
    "journal/record.py": {"msgpack"},
    "pipeline/embed/cells.py": {"numpy", "numpy.typing"},
    "pipeline/request/validation.py": {"pathlib"},
    "pipeline/engines/backends/tensorrt_progress.py": set(),
    "pipeline/engines/onnx/declaration.py": set(),
    "pipeline/engines/precision/float16.py": {"numpy", "numpy.typing"},
    "pipeline/engines/backends/tensorrt_messages.py": {"re"},
    "pipeline/request/geometry.py": set(),
    "pipeline/index/plan.py": set(),
    "pipeline/index/row_order.py": {"numpy", "numpy.typing"},
    "pipeline/planning/inputs.py": set(),
    "pipeline/embed/ray/scaling.py": set(),
    "pipeline/planning/plan.py": set(),
    "pipeline/request/request.py": {"pathlib"},
    "pipeline/request/rules.py": {"pathlib"},
    "pipeline/rerun/bisection.py": set(),
    "pipeline/rerun/report.py": set(),
    "pipeline/tiles/tile_columns.py": {"numpy", "numpy.typing"},
    "pipeline/tiles/tile.py": set(),
    "pipeline/planning/disk_space.py": set(),
    "store/domain/attachments.py": set(),
    "store/formats/descriptor_block.py": {"numpy", "numpy.typing"},
    "store/base/canonical_json.py": set(),
    "store/transfer/selection.py": set(),
    "store/domain/event_codec.py": set(),
    "store/reader/table_checks.py": set(),
    "store/formats/index_delta.py": {"numpy", "numpy.typing", "struct"},
    "store/errors.py": {"errno"},
    "store/domain/events.py": set(),
    "store/verify/report.py": {"pathlib", "shlex"},
    "store/runtime/golden_vectors.py": {"numpy", "numpy.typing", "struct"},
    "store/domain/fold.py": set(),
    "store/base/identity.py": set(),
    "store/manifest/index_entry.py": set(),
    "store/domain/index_files.py": set(),
    "store/domain/fold.py": set(),
    "store/manifest/manifest.py": set(),
    "store/domain/step_cache.py": set(),
    "store/manifest/file_names.py": set(),
    "store/base/preprocessing.py": {"numpy", "numpy.typing", "PIL"},
    "store/policy/recovery.py": set(),
    "store/policy/retention.py": set(),
    "store/policy/rollback.py": set(),
    "store/cache/segment.py": set(),
    "store/domain/state.py": set(),
    "store/base/validators.py": set(),
    "store/formats/tables.py": {"numpy", "numpy.typing"},
    "store/trust/signatures.py": {
        "cryptography.exceptions",
        "cryptography.hazmat.primitives.asymmetric.ed25519",
    },
    "store/formats/tile_pack.py": set(),
    "store/base/valueclass.py": set(),
    "store/trust/go_no_go.py": set(),
    "tools/forensics/area.py": {"numpy", "numpy.typing"},
    "tools/forensics/root_cause.py": set(),
    "tools/analysis/diff.py": {"numpy", "numpy.typing"},
    "tools/forensics/cost.py": {"statistics"},
    "tools/forensics/failure.py": set(),
    "tools/forensics/findings.py": set(),
    "tools/forensics/state_at.py": set(),
    "tools/output/sanitize.py": set(),
    "tools/forensics/step_keys.py": set(),
    "tools/forensics/history.py": {"shlex"},
    "tools/analysis/provenance.py": set(),
    "tools/forensics/records.py": set(),
    "tools/output/render.py": set(),
    "tools/analysis/replay_document.py": set(),
    "tools/analysis/replay_text.py": set(),
    "tools/forensics/steps.py": set(),
    "tools/forensics/event_text.py": set(),
    "tools/forensics/timeline.py": set(),
    "tools/analysis/why.py": set(),
}
# Pure by the house plan: as soon as one of them is written, the list above must name it.
EXPECTED = {"tools/analysis/replay_document.py"}

# The request stands on the one function that reads its file; inputs are typed by what the ports take and give.
STANDS_ON = {
    "pipeline/embed/cells.py": {"pipeline/tiles/tile.py"},
    "pipeline/engines/onnx/declaration.py": {"pipeline/engines/port.py"},
    "pipeline/planning/inputs.py": {"pipeline/engines/port.py", "pipeline/tiles/selection.py"},
    "pipeline/planning/plan.py": {"pipeline/engines/port.py", "pipeline/tiles/selection.py"},
    "pipeline/request/request.py": {"pipeline/request/files.py"},
    "tools/forensics/area.py": {"pipeline/planning/area_report.py", "pipeline/tiles/grid.py"},
    "tools/analysis/diff.py": {"pipeline/planning/area_report.py"},
}
# Pure by their nature: errors are only defined there.
ERRORS = {"journal/errors.py", "pipeline/errors.py"}

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
    *("struct", "textwrap", "tomllib", "types", "typing"),
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


def sources():
    return [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


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


@pytest.mark.parametrize("path", sorted(PURE))
def test_pure_files_are_pure(path):
    assert (ROOT / path).is_file(), f"{path} is listed as pure and does not exist"
    tree = tree_of(path)
    for module in imports_of(tree):
        assert is_ours(module) or module in PURE_MODULES | PURE[path], f"{path} imports {module}"
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


@pytest.mark.parametrize("path", sorted(PURE))
def test_pure_files_stand_on_pure_files(path):
    impure = {*our_modules_of(tree_of(path))} - {*PURE} - ERRORS - STANDS_ON.get(path, set())
    assert impure == set()


def test_the_list_is_kept_up():
    """A file of the house plan that has come to be must be in the list."""
    written = {path for path in EXPECTED if (ROOT / path).is_file()}
    assert written <= {*PURE}, f"add {sorted(written - {*PURE})} to PURE"


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
    assert found == []


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
    for path in sources():
        tree = tree_of(path)
        if "lmdb" in {*imports_of(tree)}:
            knowing.add(str(path))
        if any(
            ast.unparse(node.func) == "lmdb.open" for node in ast.walk(tree) if isinstance(node, ast.Call)
        ):
            opening.add(str(path))
    assert knowing == {f"journal/{name}.py" for name in ("environment", "foreign", "opening", "structure")}
    assert opening == {"journal/storage/open_environment.py"}
