"""No test is passed over: pytest leaves out folders by their names, and by default those named `build`."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_folder_of_tests_is_looked_into(pytestconfig):
    patterns = pytestconfig.getini("norecursedirs")
    tests = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    folders = {folder for path in tests for folder in (path, *path.parents) if ROOT in folder.parents}
    left_out = sorted(str(folder.relative_to(ROOT)) for folder in folders if any(map(folder.match, patterns)))
    assert left_out == []
    assert {"tests", "tests/pipeline/build"} <= {str(folder.relative_to(ROOT)) for folder in folders}
