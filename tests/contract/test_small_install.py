"""The extra `onboard`, from a wheel in an empty environment: what it brings, and that a signed cache flies with it."""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from store.trust.key_files import write_key_pair
from tests.ground import ALTITUDE_M, GroundSite, chunk_middle, frame_at, place_at

pytestmark = pytest.mark.contract

ROOT = Path(__file__).resolve().parents[2]
PLACE = chunk_middle(9, 7)

FLIGHT = """
import json, sys
from pathlib import Path
import numpy as np
from PIL import Image
from store.reader import FlightCache
from store.trust.rollback_protection import RollbackProtection
from store.trust.signatures import parse_keys

cache, keys, floors, frame, altitude = sys.argv[1:]
trusted = parse_keys(Path(keys).read_text())
with FlightCache.open(cache, trusted_keys=trusted) as flight:
    flight.verify()
    RollbackProtection.load(floors).adopt(flight.manifest.envelope.cache_id, flight.manifest.envelope.generation)
with FlightCache.open(cache, trusted_keys=trusted, floor=RollbackProtection.load(floors)) as flight:
    flight.verify()
    flight.load_all()
    best = flight.locate(np.asarray(Image.open(frame)), altitude_m=float(altitude), heading_deg=0.0).candidates[0]
ours = sorted({name.split(".")[0] for name in sys.modules} & {"store", "journal", "pipeline", "tools"})
print(json.dumps([best.longitude, best.latitude, ours]))
"""


def run(*command, check=True):
    environment = {
        name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}
    }
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The `bin` of an environment with the wheel and its extra `onboard`, and nothing else."""
    root = tmp_path_factory.mktemp("small")
    source = root / "source"  # a copy, since building leaves files beside the source
    for package in ("journal", "store", "pipeline", "tools"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", root, source)
    (wheel,) = root.glob("*.whl")
    run(sys.executable, "-m", "venv", root / "venv")
    # The library that compiles the engine below is the one that may run it.
    (root / "constraints").write_text(f"onnxruntime=={metadata.version('onnxruntime')}\n")
    python = root / "venv/bin/python"
    run(python, "-m", "pip", "install", "-q", "-c", root / "constraints", f"{wheel}[onboard]")
    return python.parent


def test_the_extra_brings_what_the_documents_say(small):
    listed = json.loads(run(small / "python", "-m", "pip", "list", "--format", "json").stdout)
    names = {each["name"].lower().replace("_", "-") for each in listed} - {"c10", "pip", "setuptools"}
    said = (ROOT / "docs/accelerators.md").read_text(encoding="utf-8")
    section = said.partition("## On board")[2].partition("\n## ")[0]
    documented = {
        title: {*words.partition("\n")[2].split()}
        for title, words in zip(("3.11 and newer", "3.10"), section.split("```")[3::2], strict=False)
    }
    assert names == documented["3.10" if sys.version_info < (3, 11) else "3.11 and newer"]


def test_a_signed_cache_flies_with_it(small, tmp_path):
    from PIL import Image

    site = GroundSite(tmp_path / "site")
    key = write_key_pair(tmp_path / "key")
    report = site.provisioner(signing_key=key.private, workers=1).build_cache_artifacts(site.request())
    assert report.error is None
    Image.fromarray(np.asarray(frame_at(*PLACE))).save(tmp_path / "frame.png")
    done = run(
        *(small / "python", "-W", "error", "-c", FLIGHT, site.cache, tmp_path / "key.pub"),
        *(tmp_path / "floors.txt", tmp_path / "frame.png", str(ALTITUDE_M)),
    )
    longitude, latitude, ours = json.loads(done.stdout)
    assert (longitude, latitude) == pytest.approx(place_at(*PLACE), abs=1e-4)
    assert ours == ["store"]


def test_the_command_says_what_to_install(small):
    done = run(small / "c10", "status", check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "c10: error: expected the packages of the ground, which commands need, found no click: pip install 'c10[cpu]'\n"
    )
