"""A real cache in miniature: a small network, a few tiles, two builds and a rollback."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mercantile
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper
from PIL import Image

from tests.shared_engines import builds_in_few_processes, few_processes, real_workers
from tools.cli import cli

__all__ = ["builds_in_few_processes", "real_workers"]

ROOT = Path(__file__).resolve().parents[2]
ZOOM, LEFT, TOP, ACROSS, DOWN = 12, 2176, 1408, 5, 4

REQUEST = """\
flight_id = "tiny"
sector = "stable_rear"
bbox = [{west:.7f}, {south:.7f}, {east:.7f}, {north:.7f}]
zoom = [{zoom}, {zoom}]
origin = [{west:.7f}, {south:.7f}, 10.0]
calibration = "camera.json"
[tiles]
source = "tiles/{{z}}/{{x}}/{{y}}.png"
captured = 2026-01-15
as_of = 2026-02-01
[[models]]
name = "tiny"
role = "descriptor"
onnx = "tiny.onnx"
"""


@dataclass(frozen=True, slots=True)
class World:
    """A folder with a request and what it names, and a cache beside it."""

    folder: Path

    @property
    def cache(self):
        return self.folder / "cache"

    @property
    def request(self):
        return str(self.folder / "request.toml")

    def tile(self, x=LEFT, y=TOP):
        return self.folder / "tiles" / str(ZOOM) / str(x) / f"{y}.png"

    def run(self, *args, env=None):
        """Run a command in this process; the cache is added, and a build uses one worker unless `env` is given."""
        env = {"C10_WORKERS": "1"} if env is None else env
        elsewhere = {"--bundle", "--journal"} & {*args}
        return CliRunner().invoke(cli, [*args, *([] if elsewhere else ["--cache", str(self.cache)])], env=env)

    def json(self, *args, code=0):
        """Run a command with --json and return its one line."""
        result = self.run(*args, "--json")
        assert result.exit_code == code, result.output
        return only_line(result)

    def manifest_file(self, generation):
        return self.cache / "manifests" / f"{generation:08d}.json"

    def artifact(self, digest):
        return self.cache / "artifacts" / digest[:2] / digest


def fingerprint(root):
    """Size, time of modification and inode of every file and folder."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns, path.lstat().st_ino)
        for path in root.rglob("*")
        if path.name != "journal.mdb-lock"
    }


def only_line(result: Result):
    assert result.stdout.count("\n") == 1, result.stdout
    return json.loads(result.stdout)


def make_world(folder):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    for x in range(LEFT, LEFT + ACROSS):
        for y in range(TOP, TOP + DOWN):
            path = World(folder).tile(x, y)
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(rng).save(path)
    inside = [mercantile.bounds(LEFT, TOP, ZOOM), mercantile.bounds(LEFT + ACROSS - 1, TOP + DOWN - 1, ZOOM)]
    bounds = {
        "west": inside[0].west + 0.001,
        "north": inside[0].north - 0.001,
        "east": inside[1].east - 0.001,
        "south": inside[1].south + 0.001,
    }
    (folder / "request.toml").write_text(REQUEST.format(**bounds, zoom=ZOOM))
    (folder / "camera.json").write_text('{"fx": 1200}\n')
    onnx.save(tiny_network(), folder / "tiny.onnx")
    return World(folder)


def picture(rng):
    return Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize(
        (64, 64), Image.Resampling.BILINEAR
    )


def tiny_network():
    """Mean colour of 4 x 4 fields, centred, of unit length."""
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["flat", "mean"], ["centred"]),
        helper.make_node("LpNormalization", ["centred"], ["descriptor"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, ["n", 48])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Generations 1, 2 and 3 show builds 1, 3 (one other tile) and 1; build 2 failed. Never change it."""
    world = make_world(tmp_path_factory.mktemp("world"))
    with few_processes():
        assert world.json("build", world.request)["outcome"] == "built"
        original = world.tile().read_bytes()
        world.tile().write_bytes(original[:50])
        world.json("build", world.request, code=3)
        picture(np.random.default_rng(99)).save(world.tile())
        assert world.json("build", world.request)["tiles_embedded"] == 1
        assert world.json("rollback", "--why", "just because")["changed"] is True
        world.tile().write_bytes(original)
    return world


@pytest.fixture
def world(built, tmp_path):
    """A copy to be changed."""
    shutil.copytree(built.folder, tmp_path / "copy")
    return World(tmp_path / "copy")


@pytest.fixture
def empty(built, tmp_path):
    """A copy without a cache."""
    shutil.copytree(built.folder, tmp_path / "empty", ignore=shutil.ignore_patterns("cache"))
    return World(tmp_path / "empty")


@pytest.fixture
def shell():
    """Run c10 as a process; a build starts one worker, unless `env` says otherwise."""

    def run(*args, env=None, **options):
        return subprocess.run(
            [sys.executable, "-m", "tools.cli", *map(str, args)],
            cwd=ROOT,
            env={**os.environ, "C10_WORKERS": "1", **(env or {})},
            capture_output=True,
            check=False,
            timeout=120,
            **options,
        )

    return run
