"""A tile source and an engine backend as somebody would add them: one row each, and what the rows name.

The source is a ZIP archive of tiles. The backend is ONNX's own evaluator, which runs a network as it is. Run
as a module, this is a worker that has both rows, in place of `pipeline.embed.worker`.
"""

import hashlib
import shutil
import zipfile

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from pipeline.embed import worker
from pipeline.engines.backends.compile_process import tensor_options
from pipeline.engines.port import CompiledEngine, EngineSignature
from pipeline.processes.serve import serve
from pipeline.tiles.sources.registry import SOURCES, SourceKind
from pipeline.tiles.tile import Extent, SourceTile
from store.base.identity import engine_components
from store.runtime.backends.base import require_version
from store.runtime.backends.registry import BACKENDS, EngineBackend

SOURCE = SourceKind(
    name="zip",
    written="X.zip",
    suffixes=(".zip",),
    source="tests.toy_parts:ZipSource",
    reader="tests.toy_parts:read_member",
    locator=(str, str),
    packages=("hypothesis",),
)
BACKEND = EngineBackend(
    name="reference",
    compiler="tests.toy_parts:ReferenceCompiler",
    runtime="tests.toy_parts:Reference",
    packages=("pytest",),
)


class ZipSource:
    def __init__(self, spec, *, base, digest_cache_folder, now_ns):
        self.name, self._path = spec, base / spec

    def query_by_bbox(self, bbox_e7, zoom):
        found = []
        with zipfile.ZipFile(self._path) as archive:
            for name in archive.namelist():
                z, x, y = map(int, name.removesuffix(".png").split("/"))
                data = archive.read(name)
                if zoom[0] <= z <= zoom[1]:
                    digest = hashlib.sha256(data).hexdigest()
                    where = ("zip", str(self._path), name)
                    found.append(
                        SourceTile(z=z, x=x, y=y, sha256=digest, size=len(data), captured=None, locator=where)
                    )
        return sorted(found, key=lambda tile: tile.place)

    def extent(self):
        return Extent(zoom=None, box_e7=None)


def read_member(path, name):
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


class ReferenceCompiler:
    backend = "reference"
    version = onnx.__version__

    def target(self, requested):
        return requested or "cpu"

    def runs_here(self, target):
        return target == "cpu"

    def key_components(self, job):
        return engine_components(
            onnx_sha256=job.onnx_sha256,
            backend=self.backend,
            version=self.version,
            target=job.target,
            precision=job.precision,
            batch=job.batch,
            options=tensor_options(job),
        )

    def compile(self, job, *, scratch, on_progress=None):
        engine = scratch / "engine"
        shutil.copyfile(job.onnx, engine)
        loaded = ReferenceExecutor(engine.read_bytes(), job.input, job.output)
        return CompiledEngine(
            path=engine,
            seconds=0.0,
            log="",
            signature=EngineSignature(
                input=job.input,
                input_shape=(job.batch, *loaded.sample_shape),
                output=job.output,
                output_shape=(job.batch, loaded.dimensions),
            ),
        )


class Reference:
    def version(self):
        return onnx.__version__

    def runs(self, target):
        return target == "cpu"

    def device(self):
        return "any machine"

    def load(self, source, expected):
        require_version("reference", onnx.__version__, expected.version)
        return ReferenceExecutor(source, expected.input, expected.output)


class ReferenceExecutor:
    def __init__(self, source, given, wanted):
        self._evaluator = ReferenceEvaluator(onnx.load(source) if isinstance(source, str) else bytes(source))
        self._given, self._wanted = given, wanted
        graph = self._evaluator.proto_.graph
        shapes = [
            [axis.dim_value for axis in tensor.type.tensor_type.shape.dim]
            for tensor in (*graph.input, *graph.output)
        ]
        self.takes_any_batch = False
        self.sample_shape, self.dimensions = tuple(shapes[0][1:]), shapes[1][1]

    def execute(self, batch):
        with np.errstate(invalid="ignore"):  # a batch is filled up with zeros, whose length cannot become 1
            (found,) = self._evaluator.run([self._wanted], {self._given: batch})
        return np.asarray(found, np.float32)


if __name__ == "__main__":
    SOURCES[SOURCE.name], BACKENDS[BACKEND.name] = SOURCE, BACKEND
    serve(worker.start)
