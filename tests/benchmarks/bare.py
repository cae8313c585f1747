"""The phases of a build and nothing else, in a process of its own: the least that the machine needs for them.

It reads requests as JSON from standard input, one a line, and reports the seconds of each one's phases on
standard output when it is done. The process stays, so that its libraries are loaded from the second request
on. Of C10 it uses only decoding and resizing.
"""

import hashlib
import json
import os
import sys
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime as ort
import simplejpeg

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from store.base.preprocessing import Preprocessing

_SIDE = 256


def session(engine: str, *, optimised: str = "") -> ort.InferenceSession:
    """Load a network with one thread; save the optimised network if a path is given."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if optimised:
        options.optimized_model_filepath = optimised
    return ort.InferenceSession(engine, options, providers=["CPUExecutionProvider"])


def embed(work: tuple[str, int, list[str]]) -> np.ndarray:
    """Decode, resize, run: float32 [n, d]."""
    engine, batch, files = work
    loaded = session(engine)
    (given,) = loaded.get_inputs()
    name, shape = given.name, given.shape[1:]
    rule = Preprocessing(
        size=(_SIDE, _SIDE), colour="rgb", layout="nchw", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    samples, found = np.zeros((batch, *shape), np.float32), []
    for first in range(0, len(files), batch):
        part = files[first : first + batch]
        for place, file in enumerate(part):
            samples[place] = rule.apply(simplejpeg.decode_jpeg(Path(file).read_bytes(), "RGB"))
        found.append(loaded.run(None, {name: samples})[0][: len(part)])
    return np.concatenate(found)


def shared(engine: str, batch: int, files: list[str], workers: int) -> np.ndarray:
    """Embed with several processes, or in this one."""
    if workers == 1:
        return embed((engine, batch, files))
    portions = [(engine, batch, files[first::workers]) for first in range(workers)]
    with get_context("spawn").Pool(workers) as pool:
        return np.concatenate(pool.map(embed, portions, chunksize=1))


def build(request: dict[str, object]) -> dict[str, float]:
    """Scan and hash, compile, embed, index, write, hash again; return the seconds of each phase."""
    import faiss

    found, began = {}, perf_counter()

    def done(phase: str) -> None:
        nonlocal began
        found[phase], began = perf_counter() - began, perf_counter()

    files, scratch = listed(request), Path(str(request["scratch"]))
    for file in files:
        hashlib.sha256(Path(file).read_bytes()).digest()
    done("hash tiles")
    engine = str(scratch / "bare.onnx")
    session(str(request["network"]), optimised=engine)
    done("compile")
    vectors = shared(engine, int(str(request["batch"])), files, int(str(request["workers"])))
    done("embed")
    index = faiss.IndexFlat(vectors.shape[1], faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    written = [scratch / "bare.index", scratch / "bare.vectors"]
    faiss.write_index(index, str(written[0]))
    done("index")
    vectors.tofile(written[1])
    for path in written:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        hashlib.sha256(path.read_bytes()).digest()
    done("write and hash")
    return found


def listed(request: dict[str, object]) -> list[str]:
    """Return all tiles below a folder."""
    return sorted(map(str, Path(str(request["files"])).rglob("*.jpg")))


def main() -> None:
    """Serve the requests on standard input."""
    for line in sys.stdin:
        request, seconds = json.loads(line), {}
        if request["phase"] == "build":
            seconds = build(request)
        else:
            files = listed(request)
            found = shared(request["engine"], request["batch"], files, request["workers"])
            if len(found) != len(files):
                raise SystemExit(f"expected {len(files)} vectors, found {len(found)}")
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
