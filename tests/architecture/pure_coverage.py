"""Demand full branch coverage of the pure folders: `python pure_coverage.py COVERAGE_JSON`.

Reads what `pytest --cov --cov-report=json` wrote, and the pure folders that `test_purity.py` names.
"""

import ast
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent


def named(constant: str) -> set[str]:
    """Read a set or the keys of a dictionary of `test_purity.py`, without importing the tests."""
    tree = ast.parse((HERE / "test_purity.py").read_text(encoding="utf-8"))
    for node in tree.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict(keys=found)) if name == constant:
                return {key.value for key in found if isinstance(key, ast.Constant)}
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Set(elts=found)) if name == constant:
                return {key.value for key in found if isinstance(key, ast.Constant)}
    raise SystemExit(f"test_purity.py: expected {constant}, found none")


def main(report: str) -> int:
    """Print what is not covered; return the exit status."""
    measured = json.loads(Path(report).read_text(encoding="utf-8"))["files"]
    folders, exceptions = named("PURE"), named("NOT_PURE")
    root = HERE.parents[1]
    files = [
        str(path.relative_to(root))
        for folder in sorted(folders)
        for path in sorted((root / folder).glob("*.py"))
    ]
    status = 0
    for name in files:
        if name in exceptions:
            continue
        found = measured.get(name)
        if found is None:
            print(f"{name}: never imported")
            status = 1
            continue
        missing, branches = found["missing_lines"], found.get("missing_branches", [])
        if missing or branches:
            print(f"{name}: lines {missing}, branches {branches}")
            status = 1
    if status == 0:
        print(f"{len(files)} files of {len(folders)} pure folders: every line and branch was taken")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
