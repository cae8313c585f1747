"""Write `vectors.json`: small questions whose answer follows from the documents, with C10's own answers.

python -m tests.conformance.make_vectors [FILE]
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from store.base.canonical_json import CanonicalError, decode, digest
from store.base.geometry.level import Level
from store.base.geometry.mosaic import render_chunks
from store.base.preprocessing import Preprocessing, flatten_alpha, resample
from store.runtime.golden_vectors import golden_images

HERE = Path(__file__).parent
Document = dict[str, Any]

TEXTS = (
    "null",
    "-9223372036854775808",
    "18446744073709551615",
    '"\\u0000\\b\\t\\n\\f\\r\\u001f \\"\\\\/~\\u007f\\u0080\\u2028\\uffff\\ud83d\\ude00"',
    '{"":0,"A":1,"a":2,"\\u00e9":3,"\\uffff":4,"\\ud800\\udc00":5}',
    "[[],{},[{}]]",
    '"\\u00E9"',
    '"\\u007F"',
    '"\\ud800"',
    '{"\\ud800\\udc00":5,"\\uffff":4}',
    "1.0",
    "-0",
    "18446744073709551616",
    '{"a":1,"a":1}',
    "[1, 2]",
)
CONTRACT = Preprocessing(size=(8, 8), mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def picture(height: int, width: int, number: int = 0, seed: int = 0) -> Document:
    return {"seed": seed, "number": number, "height": height, "width": width}


def vectors() -> Iterator[tuple[str, Document]]:
    """Yield what is asked."""
    for text in TEXTS:
        yield "canonical", {"text": text}
    yield "digest", {"domain": "c10/build/1", "document": {"b": [1, True, None], "a": "é\U0001f600\x7f"}}
    for ask in (
        picture(1, 1),
        picture(32, 48),
        picture(70, 33, 7),
        picture(9, 65, 3, 5),
        picture(4, 4, 2**32 - 1, 2**32 - 1),
    ):
        yield "golden", ask
    sizes = (
        (32, 48, 8, 8),
        (32, 48, 32, 12),
        (32, 48, 7, 48),
        (32, 48, 31, 47),
        (5, 3, 64, 40),
        (1, 1, 3, 2),
        (200, 7, 3, 7),
        (64, 64, 64, 64),
        (33, 256, 32, 1),
        (70, 9, 7, 8),
        (70, 9, 7, 40),
        (70, 30, 69, 31),
    )
    for height, width, new_height, new_width in sizes:
        yield "resample", {**picture(height, width, 1), "size": [new_height, new_width]}
    contracts = (
        Preprocessing(size=(8, 8)),
        CONTRACT,
        Preprocessing(size=(8, 12), colour="bgr", layout="nhwc", mean=(0.1, 0.2, 0.3), std=(0.7, 255.0, 3.0)),
        Preprocessing(size=(40, 40), colour="bgr", std=(127.5, 127.5, 127.5)),
    )
    for contract in contracts:
        for height, width in ((8, 8), (31, 50), (50, 31), (8, 12)):
            yield "sample", {**picture(height, width, 2), "preprocessing": contract.to_document()}
    for number, alpha in ((0, 1), (5, 5)):
        yield "alpha", {**picture(16, 20, number), "alpha": alpha}
    levels = ((6, 1, 3), (6, 0, 2), (6, 2, 7), (6, 3, 1), (0, 2, 4))
    for zoom, k, m in levels:
        for size in ((8, 8), (13, 24), (96, 96)):
            x, y = ((1 << zoom + k) - 1, 5) if zoom else (0, 0)
            yield "chunk", {"zoom": zoom, "k": k, "m": m, "x": x, "y": y, "tile_edge": 32, "size": list(size)}


def answer(what: str, ask: Document) -> str:
    """Return C10's answer."""
    if what == "canonical":
        try:
            decode(ask["text"].encode())
        except CanonicalError:
            return "refused"
        return "canonical"
    if what == "digest":
        return digest(ask["domain"], ask["document"])
    if what == "chunk":
        return _sha(_chunk(ask))
    image = _golden(ask, ask["number"])
    if what == "resample":
        image = resample(image, tuple(ask["size"]))
    elif what == "sample":
        return _sha(Preprocessing.from_document(ask["preprocessing"]).apply(image).astype("<f4"))
    elif what == "alpha":
        image = flatten_alpha(np.dstack([image, _golden(ask, ask["alpha"])[:, :, :1]]))
    return _sha(image)


def _golden(ask: Document, number: int) -> np.ndarray[Any, Any]:
    # The formula takes the number times 3, modulo 2^32: an image far on is the first one of another seed.
    if number < 100:
        return golden_images(number + 1, ask["height"], ask["width"], seed=ask["seed"])[number]
    key = (1_000_003 * ask["seed"] + 3 * number) % 2**32
    seed = key * pow(1_000_003, -1, 2**32) % 2**32
    return golden_images(1, ask["height"], ask["width"], seed=seed)[0]


def _chunk(ask: Document) -> np.ndarray[Any, Any]:
    level, edge = Level(ask["zoom"], ask["k"], ask["m"]), ask["tile_edge"]

    class Tiles(dict):  # type: ignore[type-arg]
        def __missing__(self, place: tuple[int, int]) -> np.ndarray[Any, Any]:
            column, row = place
            return _golden({"seed": 0, "height": edge, "width": edge}, 1000 * row + column)

    (found,) = render_chunks(level, [(ask["x"], ask["y"])], Tiles(), tuple(ask["size"]))
    return found


def _sha(data: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()


def document() -> Document:
    """Return the whole file."""
    rows = [
        {"name": f"{what}-{number}", "what": what, "in": ask, "out": answer(what, ask)}
        for number, (what, ask) in enumerate(vectors(), start=1)
    ]
    return {"format": 1, "vectors": rows}


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "vectors.json"
    target.write_text(json.dumps(document(), indent=1) + "\n")
