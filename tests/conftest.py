"""Fixtures for every test."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

REQUEST = """\
flight_id = "demo-001"
sector = "stable_rear"
bbox = [-118.3198, 36.5611, -118.2607, 36.5930]
zoom = [13, 15]
origin = [-118.2923, 36.5785, 4421.0]
calibration = "camera.json"

[tiles]
source = "whitney.pmtiles"

[engine]
backend = "onnxruntime"
precision = "fp32"

[[models]]
name = "place"
role = "descriptor"
onnx = "builtin:place"

[index]
kind = "auto"
"""


@pytest.fixture(scope="session")
def archives() -> ModuleType:
    """The helper that writes tile archives (tests are no package, so it cannot be imported by name)."""
    name = "tile_archives"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("tile_archives.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def request_text() -> Callable[..., str]:
    """Text of a valid request, with some `old -> new` replacements; each must apply."""

    def make(*changes: tuple[str, str]) -> str:
        text = REQUEST
        for old, new in changes:
            assert old in text, f"{old!r} is not in the request"
            text = text.replace(old, new)
        return text

    return make
