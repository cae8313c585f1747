"""Demand full branch coverage of the pure files: `python pure_coverage.py COVERAGE_JSON`.

Reads what `pytest --cov --cov-report=json` wrote and the list of pure files that `test_purity.py` keeps.
"""

import ast
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent


def pure_files() -> list[str]:
    """Read the list without importing the tests that hold it."""
    tree = ast.parse((HERE / "test_purity.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "PURE" and node.value is not None:
            keys = node.value.keys if isinstance(node.value, ast.Dict) else []
            return [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    raise SystemExit("test_purity.py: expected a dictionary PURE, found none")


def main(report: str) -> int:
    """Print what is not covered; return the exit status."""
    measured = json.loads(Path(report).read_text(encoding="utf-8"))["files"]
    status = 0
    for name in pure_files():
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
        print(f"{len(pure_files())} pure files: every line and branch was taken")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
