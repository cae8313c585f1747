"""A site with everything that a small build needs: a network of a few kilobytes, a camera, tiles, requests."""

import io
import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline import C10ProvisionerConfig, build_cache_provisioner
from pipeline.request.options import CoverageOptions, ModelRole, ModelSpec, TileOptions
from pipeline.request.request import BuildRequest
from pipeline.request.to_toml import to_toml
from pipeline.testing import Calls, FakeBatcher, FakeCompiler, FakeIndexBuilder, FakeTiles, RecordingProgress
from store.cache.view import open_view, read_history
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.manifest_projection import project
from store.formats import descriptor_block
from store.formats.tables import decode_blocks
from store.manifest.manifest import parse
from store.testing import FakeClock

ZOOM = 6
WORLD = (-180.0, -85.0, 180.0, 85.0)
WEST = (-180.0, -85.0, -0.1, 85.0)
"""The columns 0 to 31 of zoom 6."""

DIMENSIONS = 16
BATCH = 4


@lru_cache(maxsize=64)
def tiny_network(*, seed=0, batch=BATCH, unit=True, size=32, drift=0.0, bias=0.0):
    """Average pooling, a matrix of fixed weights, length 1: images [batch, 3, 32, 32] to vectors [batch, 16].

    `drift` adds so much of other weights; `bias` is added before the vector gets its length.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    side = size // 4
    weights, other = (
        np.random.default_rng(each).standard_normal((3 * side * side, DIMENSIONS)).astype(np.float32)
        for each in (seed, seed + 1000)
    )
    weights += np.float32(drift) * other
    nodes = [
        helper.make_node("AveragePool", ["input"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["mixed" if unit else "descriptor"]),
    ]
    if unit:
        nodes.append(helper.make_node("LpNormalization", ["mixed"], ["descriptor"], axis=1, p=2))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, [batch, DIMENSIONS])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.float32(bias), "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@lru_cache(maxsize=64)
def local_network(*, seed=0, channels=8, size=32, rank=4, opset=17, flat=False, batch="n"):
    """Random filters: images [n, 3, 32, 32] to local features `local`, [n, channels, 8, 8] or [n, 64, channels].

    `flat` also gives their mean, as `descriptor`.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    filters = rng.standard_normal((channels, 3, 4, 4)).astype(np.float32)
    filters -= filters.mean(axis=(2, 3), keepdims=True)
    cells = size // 4
    local = [batch, channels, cells, cells] if rank == 4 else [batch, cells * cells, channels]
    nodes = [
        helper.make_node("Conv", ["input", "filters"], ["conv"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Tanh", ["conv"], ["local" if rank == 4 else "map"]),
    ]
    tables = [numpy_helper.from_array(filters / 200, "filters")]
    if rank == 3:
        tables.append(numpy_helper.from_array(np.array([0, channels, -1], np.int64), "sizes"))
        nodes.append(helper.make_node("Reshape", ["map", "sizes"], ["columns"]))
        nodes.append(helper.make_node("Transpose", ["columns"], ["local"], perm=[0, 2, 1]))
    outputs = [helper.make_tensor_value_info("local", TensorProto.FLOAT, local)]
    if flat:
        nodes.append(helper.make_node("GlobalAveragePool", ["local"], ["pooled"]))
        nodes.append(helper.make_node("Flatten", ["pooled"], ["descriptor"]))
        outputs.append(helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, [batch, channels]))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, size, size])
    graph = helper.make_graph(nodes, "local", [given], outputs, tables)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@lru_cache(maxsize=4096)
def picture(seed, encoding="png"):
    """An encoded tile of 32 x 32 pixels of noise, another one for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    return encoded(pixels, encoding)


def plain(level, encoding="png"):
    """An encoded tile of one grey."""
    return encoded(np.full((32, 32, 3), level, np.uint8), encoding)


def encoded(pixels, encoding="png"):
    """Pixels uint8 [height, width, ...] as an encoded picture."""
    return _encoded(pixels.tobytes(), pixels.shape, encoding)


@lru_cache(maxsize=1024)
def _encoded(data, shape, encoding):
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.frombuffer(data, np.uint8).reshape(shape)).save(buffer, encoding)
    return buffer.getvalue()


def spread(columns=8, rows=5, *, first=0, content=picture):
    """Tiles of zoom 6, few to a cell: (6, 8 i, 12 j), 40 of them in 16 cells."""
    return {(ZOOM, 8 * i, 12 * j): content(first + 1000 * i + j) for i in range(columns) for j in range(rows)}


def words(seed):
    """Content for tiles that are never decoded."""
    return f"tile {seed}".encode()


class Site:
    """A folder with a network, a camera, tiles and the path of a cache."""

    def __init__(self, root, *, cache=None):
        """Fill the folder, unless it is filled already."""
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self.cache = Path(cache) if cache else self.root / "cache"
        self.layout = Layout(self.cache)
        if not (self.root / "net.onnx").exists():
            self.write("net.onnx", tiny_network())
            self.write("camera.json", b'{"focal": 35}')

    def write(self, name, data):
        """Write a file that requests may name; return its path."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def write_tiles(self, tiles, folder="tiles", extension="png"):
        for (z, x, y), content in tiles.items():
            self.write(f"{folder}/{z}/{x}/{y}.{extension}", content)

    def request(
        self, *, source="tiles/{z}/{x}/{y}.png", tiles=None, network="net.onnx", model=None, **fields
    ):
        """A request for all tiles of zoom 6; `tiles` and `model` are further options of these tables."""
        descriptor = ModelSpec(name="place", role=ModelRole.DESCRIPTOR, onnx=network, **(model or {}))
        settings = {
            "flight_id": "f1",
            "sector": "stable_rear",
            "bbox": WORLD,
            "zoom": (ZOOM, ZOOM),
            "origin": (0.0, 0.0, 100.0),
            "calibration": "camera.json",
            "tiles": TileOptions(source=source, **(tiles or {})),
            "models": (descriptor,),
            # Its few tiles are far apart.
            "coverage": CoverageOptions(min_fraction=0.0),
            "base": self.root,
        } | fields
        return BuildRequest(**settings)

    def write_request(self, **fields):
        """Write a request file; return its path."""
        return self.write("request.toml", to_toml(self.request(**fields)).encode())

    def provisioner(self, **ports):
        """A provisioner with real ports, except those given; settings by their names among them.

        One worker, unless told: each is a process that loads the libraries anew, and a small build has no use for two.
        """
        settings = {
            name: ports.pop(name)
            for name in (
                *("coverage_strict", "lock_timeout_s", "reserve_mb", "workers", "manifest_filename"),
                *("signing_key", "trusted_keys", "digest_cache_folder"),
            )
            if name in ports
        }
        config = C10ProvisionerConfig(
            cache_root=self.cache, **({"lock_timeout_s": 0.2, "workers": 1} | settings)
        )
        return build_cache_provisioner(config, **({"host": {}} | ports))

    def build(self, *, force=False, **fields):
        """Build for real."""
        return self.provisioner().build_cache_artifacts(self.request(**fields), force=force)

    def state(self):
        return open_view(self.layout).state

    def events(self, kind):
        """All events of one class, in order."""
        return [fact.event for fact in read_history(self.layout).facts if isinstance(fact.event, kind)]

    def head_bytes(self):
        """The bytes of the newest manifest."""
        name = max(self.layout.manifest_files().items())[1]
        return (self.layout.manifests / name).read_bytes()

    def blocks(self):
        """The latest block of every cell, by (vector space, zoom, cell x, cell y)."""
        return self.state().step_cache.blocks

    def artifact(self, ref):
        return self.layout.artifact(ref.sha256)

    def held_digests(self, space):
        """Digests of the rows of a vector space whose blocks are recorded and intact."""
        artifacts, found = Artifacts(self.layout), set()
        for event in self.state().step_cache.blocks_in(space):
            if artifacts.damage(event.block) is None:
                block = descriptor_block.decode(artifacts.read(event.block))
                found.update(bytes(row).hex() for row in block.digests)
        return found


class FakeSite(Site):
    """A site whose ports are all fakes. They are kept, so that a test may plant faults and count calls."""

    def __init__(self, root, tiles=None):
        super().__init__(root)
        self.calls = Calls()
        self.tiles = dict(spread(content=words) if tiles is None else tiles)
        self.compiler = FakeCompiler(calls=self.calls, dimensions=DIMENSIONS)
        self.batcher = FakeBatcher(calls=self.calls)
        self.indexer = FakeIndexBuilder(calls=self.calls)
        self.progress = RecordingProgress()
        self.clock = FakeClock()

    def provisioner(self, **ports):
        fakes = {
            "engine_compiler": self.compiler,
            "descriptor_batcher": self.batcher,
            "index_builder": self.indexer,
            "tile_metadata_store": FakeTiles(tiles=self.tiles),
            "progress": self.progress,
            "clock": self.clock,
            "reserve_mb": 0,
        }
        return super().provisioner(**(fakes | ports))


ROLES = ("engine", "index", "block", "block table", "tile table", "calibration", "geography")
"""Kinds of artifacts that a manifest names."""

WORK = {"engine": ["compile place"], "index": ["index"], "block": ["embed", "window 0"]}
"""The calls that making an artifact again takes, by its role; the others take none."""


def ref_of(site, role, generation=None):
    """The artifact of a role that a generation names, the head unless told."""
    state = site.state()
    manifest = parse(project(state, state.generations[generation or state.head.number]))
    return {
        "engine": lambda: manifest.engines[0].artifact,
        "index": lambda: manifest.index.artifact,
        "block": lambda: decode_blocks(site.artifact(manifest.index.blocks).read_bytes())[0].ref,
        "block table": lambda: manifest.index.blocks,
        "tile table": lambda: manifest.tiles,
        "calibration": lambda: manifest.calibration,
        "geography": lambda: manifest.geography,
    }[role]()


def tree(root):
    """Path below a cache to (inode, size, times, bytes) of everything that an up-to-date run must not change."""
    found = {}
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder) / name
            if path.name in {"build.lock", "journal.mdb-lock"}:
                continue
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[str(path.relative_to(root))] = (
                status.st_ino,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
                content,
            )
    return found
