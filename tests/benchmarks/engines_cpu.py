"""Measure ONNX Runtime and OpenVINO on the same networks: their throughput, and how well their answers agree.

Run from the root of the repository: `python tests/benchmarks/engines_cpu.py`. C10's own compilers compile the
engines, and its own runtime runs them. The engines take turns, one batch each, so that other load affects all
of them; the ratios are medians over the rounds. Images per second of processor time are given too, because
other load affects them less. Agreement is the least cosine to ONNX Runtime on the given network, over golden
images in different batches.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import onnx

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from pipeline.builtin_model.place import place_model
from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.engines.backends.openvino import OpenVinoCompiler
from pipeline.engines.onnx.file import onnx_digest, parse_declaration
from pipeline.engines.port import EngineCompiler, EngineJob
from pipeline.engines.precision.float16 import LEAST_COSINE
from pipeline.errors import CompileError
from store.runtime import Engine
from store.runtime.golden_vectors import golden_inputs, parity
from store.runtime.load import load_engine
from tests.networks import mobilenet, quantised, resnet50, vit_b14

Samples = npt.NDArray[np.float32]

NETWORKS: dict[str, tuple[Callable[[], bytes], int]] = {
    "builtin:place": (place_model, 256),
    "ResNet-50": (lambda: resnet50().SerializeToString(), 224),
    "ViT-B/14": (lambda: vit_b14().SerializeToString(), 224),
    "MobileNet": (lambda: mobilenet().SerializeToString(), 224),
    "8 bits": (lambda: quantised(side=224, dimensions=64).SerializeToString(), 224),
}
"""Name to the bytes of a network and the side of its image. The weights of all but the first are random."""

BACKENDS: tuple[tuple[EngineCompiler, str], ...] = (
    (OnnxRuntimeCompiler(), "fp32"),
    (OpenVinoCompiler(), "fp32"),
    (OpenVinoCompiler(), "bf16"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One engine of one network; ratios are to the first backend."""

    network: str
    backend: str
    precision: str
    compile_s: float
    megabytes: float
    per_second: float
    ratio: float
    per_processor_second: float
    processor_ratio: float
    cosine: float


def measured(name: str, *, batch: int, threads: int, seconds: float, work: pathlib.Path) -> Iterator[Row]:
    """Compile a network with every backend and let the engines take turns for a while."""
    make, side = NETWORKS[name]
    path = work / "network.onnx"
    path.write_bytes(make())
    samples = golden_inputs((batch, 3, side, side))
    engines: list[tuple[EngineCompiler, str, Engine, float, int]] = []
    for compiler, precision in BACKENDS:
        try:
            engines.append(
                (compiler, precision, *compiled(compiler, precision, path, samples, threads=threads))
            )
        except CompileError as error:
            print(f"{name}: {compiler.backend} {precision} left out: {error}", file=sys.stderr)
    walls, cpus = rounds([engine for _, _, engine, _, _ in engines], samples, seconds=seconds)
    check = golden_inputs((batch + 1, 3, side, side), seed=1)
    exact = reference(path, check)
    for place, (compiler, precision, engine, took, size) in enumerate(engines):
        yield Row(
            network=name,
            backend=compiler.backend,
            precision=precision,
            compile_s=took,
            megabytes=size / 1e6,
            per_second=batch / float(np.median(walls[:, place])),
            ratio=float(np.median(walls[:, 0] / walls[:, place])),
            per_processor_second=batch / float(np.median(cpus[:, place])),
            processor_ratio=float(np.median(cpus[:, 0] / cpus[:, place])),
            cosine=parity(engine.run, lambda _: exact, check),
        )


def compiled(
    compiler: EngineCompiler, precision: str, path: pathlib.Path, samples: Samples, *, threads: int
) -> tuple[Engine, float, int]:
    """Compile and load one engine; return it, the seconds it took and its size in bytes."""
    batch, *sample = samples.shape
    declared = parse_declaration(path.read_bytes())
    signature = declared.signature()
    job = EngineJob(
        model="network",
        role="descriptor",
        onnx=path,
        onnx_sha256=onnx_digest(path),
        input=signature.input.name,
        output=signature.output.name,
        sample_shape=tuple(sample),
        batch=batch,
        precision=precision,
        quantized=declared.quantized,
        target=compiler.target(None),
    )
    compiler.key_components(job)
    with tempfile.TemporaryDirectory() as folder:
        made = compiler.compile(job, scratch=pathlib.Path(folder))
        data = made.path.read_bytes()
    engine = load_engine(
        data,
        backend=compiler.backend,
        version=compiler.version,
        target=job.target,
        precision=precision,
        input=job.input,
        output=job.output,
        batch=batch,
        threads=threads,
    )
    return engine, made.seconds, len(data)


def rounds(
    engines: Sequence[Engine], samples: Samples, *, seconds: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Let engines take turns; return elapsed and processor seconds per batch, each [rounds, engines]."""
    for engine in engines:
        engine.run(samples)
    walls, cpus = [], []
    end = time.monotonic() + seconds * len(engines)
    while time.monotonic() < end or len(walls) < 3:
        wall, cpu = [], []
        for engine in engines:
            began, used = time.perf_counter(), time.process_time()
            engine.run(samples)
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - used)
        walls.append(wall)
        cpus.append(cpu)
    return np.array(walls), np.array(cpus)


def reference(path: pathlib.Path, samples: Samples) -> Samples:
    """Return the answers of ONNX Runtime on the given network, one image at a time."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = onnx.load(path).graph.input[0].name
    rows = [session.run(None, {name: samples[row : row + 1]})[0] for row in range(len(samples))]
    return np.concatenate(rows)


def main() -> None:
    """Print a table, or one line of JSON for each engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="per engine")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print(
            f"batch {options.batch}, {options.threads} threads, {OpenVinoCompiler().target(None)}, "
            f"onnxruntime {OnnxRuntimeCompiler().version}, openvino {OpenVinoCompiler().version}\n\n"
            "| network | backend | precision | compile s | MB | images/s | ratio | images/CPU-s | ratio | cosine |\n"
            "|---|---|---|---|---|---|---|---|---|---|"
        )
    disagreeing = []
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            for row in measured(
                name,
                batch=options.batch,
                threads=options.threads,
                seconds=options.seconds,
                work=pathlib.Path(folder),
            ):
                if row.cosine < LEAST_COSINE[row.precision]:
                    disagreeing.append(f"{name} {row.backend} {row.precision}")
                if options.json:
                    print(json.dumps(asdict(row)), flush=True)
                    continue
                print(
                    f"| {row.network} | {row.backend} | {row.precision} | {row.compile_s:.1f} | {row.megabytes:.1f} "
                    f"| {row.per_second:.1f} | {row.ratio:.2f} | {row.per_processor_second:.1f} "
                    f"| {row.processor_ratio:.2f} | {row.cosine:.7f} |",
                    flush=True,
                )
    if disagreeing:
        sys.exit(f"expected answers that agree, found others: {', '.join(disagreeing)}")


if __name__ == "__main__":
    main()
