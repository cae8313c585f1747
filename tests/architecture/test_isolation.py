"""Tests see nothing of the caller's environment: neither settings of C10 nor a careless umask."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOREIGN = {
    "C10_CACHE": "/nonexistent",
    "C10_CONFIG": "/nonexistent/c10.toml",
    "C10_LOCK_TIMEOUT_S": "soon",
    "C10_SIGNING_KEY": "/nonexistent/key",
    "C10_TRUSTED_KEYS": "/nonexistent/keys",
    "C10_WORKERS": "many",
}


def test_settings_and_umask_of_the_caller_change_nothing():
    files = ["tests/tools/test_cli.py", "tests/tools/commands/test_trust.py", "tests/store/disk"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env={**os.environ, **FOREIGN},
        umask=0,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_deep_tests_are_left_out_and_counted_unless_their_file_is_named():
    def collected(*words):
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n0",
            "--collect-only",
            "-p",
            "no:cacheprovider",
            *words,
        ]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout

    everything = collected("tests/journal")
    assert "test_damage.py" not in everything
    assert "deep tests were left out; run them with: python -m pytest -m deep" in everything
    assert "test_damage.py" in collected("tests/journal/test_damage.py")
    assert "test_damage.py" in collected("-m", "deep", "tests/journal")
