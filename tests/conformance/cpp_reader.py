"""Compile the reader in C++ and ask it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
HEADERS = ("nlohmann/json.hpp", "openssl/evp.h")
STRICT = ("-std=c++17", "-Wall", "-Wextra", "-Werror")
OPTIMISED = ("-O1",)
"""Takes a third longer, and has warnings of its own."""
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def compiled(folder: Path, *flags: str) -> Path:
    """Return the program; skip the test where there is no compiler, or no headers of the libraries."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    for header in HEADERS:
        probe = [compiler, "-E", "-x", "c++", "-include", header, "-"]
        if subprocess.run(probe, input=b"", capture_output=True, check=False).returncode:
            pytest.skip(f"needs {header} (libssl-dev, nlohmann-json3-dev)")
    program, source = folder / "reader", HERE / "reader" / "reader.cpp"
    command = [compiler, *STRICT, *flags, "-o", program, source, "-lcrypto"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not made.returncode, made.stderr
    return program


def told_by(*command: Path | str) -> dict[str, Any]:
    """Return what the program says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
