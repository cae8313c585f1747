"""Cases of manifests that must be refused: fields, contradictions, columns, floors and devices."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from store.base.canonical_json import encode
from tests.conformance.cases import (
    CPU,
    Case,
    at,
    changed,
    no,
    put,
    signed,
    take,
)
from tests.conformance.sound import CACHE_ID, Files, sha
from tests.conformance.sound_cases import BOTH, ORIN, files_of

FIRST = "manifests/00000001.json"


def cases() -> Iterator[Case]:
    """Yield them."""
    yield from _fields()
    yield from _contradictions()
    yield from _floors_and_devices()


def _fields() -> Iterator[Case]:
    tiles = files_of("tiles")
    for number in (0, 4, "1", True, None, [1]):
        yield no(
            f"format-{type(number).__name__}-{json.dumps(number).strip('[]').strip(chr(34))}",
            "manifest-invalid",
            "a format that this version does not know",
            changed(tiles, put(("format",), number)),
        )
    sha256, engine = ("body", "calibration", "sha256"), ("body", "engines", 0)
    ref, envelope, index = ("body", "calibration"), ("envelope",), ("body", "index")
    wrong: dict[str, Callable[[Any], object]] = {
        "third-member": put(("another",), 1),
        "no-envelope": take("envelope"),
        "body-is-list": put(("body",), []),
        "envelope-member": put((*envelope, "another"), 1),
        "envelope-without-time": take(*envelope, "time_ns"),
        "generation-text": put((*envelope, "generation"), "1"),
        "generation-true": put((*envelope, "generation"), value=True),
        "time-negative": put((*envelope, "time_ns"), -1),
        "time-too-large": put((*envelope, "time_ns"), 2**63),
        "cache-id-too-long": put((*envelope, "cache_id"), "c" * 257),
        "chain-upper-case": put((*envelope, "prev_head", "chain"), "AB" * 32),
        "path": put(sha256, "../../../../../../../../../../../../../../../../../../etc/hostname"),
        "path-in-digits": put(sha256, "ab/../" + "ab" * 29),
        "digest-upper-case": put(sha256, "AB" * 32),
        "digest-short": put(sha256, "ab" * 31),
        "size-negative": put((*ref, "size"), -1),
        "size-text": put((*ref, "size"), "2"),
        "artifact-member": put((*ref, "path"), "x"),
        "artifact-without-size": take(*ref, "size"),
        "model-name": put((*engine, "model"), "../place"),
        "engine-without-target": take(*engine, "target"),
        "backend-too-long": put((*engine, "backend"), "x" * 257),
        "batch-text": put((*engine, "batch"), "1"),
        "signature-list": put((*engine, "signature"), []),
        "no-geography": take("body", "geography"),
        "no-engines": put(("body", "engines"), []),
        "rows-negative": put((*index, "rows"), -1),
        "no-metric": take(*index, "metric"),
        "vector-space": put(("body", "vector_space"), "x"),
        "tile-count": put(("body", "tiles", "count"), None),
        "wanted-negative": put(("body", "geography", "wanted"), -1),
        "no-skipped": take("body", "geography", "skipped"),
        "no-checks": take("body", "checks"),
        "checks-map": put(("body", "checks"), {}),
        "check-of-number": put(("body", "checks", 0, "subject"), 1),
        "check-without-measured": take("body", "checks", 0, "measured"),
    }
    for name, change in wrong.items():
        yield no(f"field-{name}", "manifest-invalid", "a field of another form", changed(tiles, change))
    delta = files_of("delta")
    for name, change in {
        "delta-member": put((*index, "delta", "another"), 1),
        "delta-without-dropped": take(*index, "delta", "dropped"),
    }.items():
        yield no(f"field-{name}", "manifest-invalid", "a field of another form", changed(delta, change, 2))
    chunks, level = files_of("chunks"), ("body", "inputs", "chunks", "levels", 0)
    same = at(json.loads(chunks[FIRST]), level)
    for name, change in {
        "m-0": put((*level, "m"), 0),
        "m-32": put((*level, "m"), 32),
        "k-8": put((*level, "k"), 8),
        "lattice-26": put((*level, "zoom"), 25),
        "edge-0": put((*level, "tile_edge"), 0),
        "level-member": put((*level, "another"), 1),
        "chunks-member": put(("body", "inputs", "chunks", "another"), 1),
        "no-level": put(("body", "inputs", "chunks", "levels"), []),
        "level-twice": put(("body", "inputs", "chunks", "levels"), [same, same]),
        "seventeen-levels": put(
            ("body", "inputs", "chunks", "levels"), [{**same, "m": m} for m in range(1, 18)]
        ),
    }.items():
        yield no(f"field-{name}", "manifest-invalid", "chunks of another form", changed(chunks, change))


def _contradictions() -> Iterator[Case]:
    tiles, second, delta = files_of("tiles"), files_of("second"), files_of("delta")
    chunks, carried = files_of("chunks"), files_of("carried")
    body, inputs, index = ("body",), ("body", "inputs"), ("body", "index")
    document = json.loads(tiles[FIRST])
    model, engine = document["body"]["inputs"]["models"][0], document["body"]["engines"][0]

    def models(
        *names: str, flown: tuple[str, ...], roles: Mapping[str, str] | None = None
    ) -> Callable[[Any], object]:
        def change(found: Any) -> None:
            role = lambda name: (roles or {}).get(name, "descriptor" if name == "place" else "auxiliary")  # noqa: E731
            found["body"]["inputs"]["models"] = [
                {**copy.deepcopy(model), "name": name, "role": role(name)} for name in names
            ]
            found["body"]["engines"] = [
                {**copy.deepcopy(engine), "model": name, "role": role(name)} for name in flown
            ]

        return change

    raw = json.loads(tiles[FIRST])
    raw["body"]["identity"] = sha("another")
    yield no(
        "identity",
        "manifest-invalid",
        "the identity is not that of the inputs",
        signed(tiles, 1, encode(raw) + b"\n"),
    )
    yield no(
        "wrong-name",
        "verification",
        "the manifest of one generation under the name of another",
        {
            **second,
            "manifests/00000003.json": second["manifests/00000002.json"],
            "manifests/00000003.sig": second["manifests/00000002.sig"],
        },
    )
    wrong: dict[str, tuple[Files, int, Callable[[Any], object]]] = {
        "another-tile-set": (tiles, 1, put((*inputs, "tiles", "digest"), sha("x"))),
        "another-calibration": (tiles, 1, put((*inputs, "calibration"), sha("x"))),
        "model-without-engine": (tiles, 1, models("other", "place", flown=("place",))),
        "engine-without-model": (tiles, 1, models("place", flown=("other", "place"))),
        "engine-twice": (tiles, 1, models("place", flown=("place", "place"))),
        "model-twice": (tiles, 1, models("place", "place", flown=("place",))),
        "models-unordered": (tiles, 1, models("zebra", "place", flown=("place", "zebra"))),
        "no-descriptor": (tiles, 1, models("place", flown=("place",), roles={"place": "auxiliary"})),
        "another-role": (tiles, 1, put(("body", "engines", 0, "role"), "auxiliary")),
        "another-contract": (tiles, 1, put(("body", "engines", 0, "preprocessing", "colour"), "bgr")),
        "format-2-without-delta": (tiles, 1, put(("format",), 2)),
        "format-3-without-reason": (tiles, 1, put(("format",), 3)),
        "format-1-with-delta": (delta, 2, put(("format",), 1)),
        "format-1-with-chunks": (chunks, 1, put(("format",), 1)),
        "format-1-with-tiles": (files_of("carried-tiles"), 1, put(("format",), 1)),
        "format-1-with-area": (files_of("area"), 1, put(("format",), 1)),
        "format-1-with-normalise": (files_of("normalised"), 1, put(("format",), 1)),
        "delta-too-large": (delta, 2, put((*index, "delta", "added"), 1000)),
        "carried-not-asked": (carried, 1, take(*inputs, "carry")),
        "asked-not-carried": (carried, 1, take(*body, "carried")),
        "carry-false": (carried, 1, put((*inputs, "carry", "tiles"), value=False)),
        "carry-1": (carried, 1, put((*inputs, "carry", "tiles"), 1)),
        "carry-more": (carried, 1, put((*inputs, "carry", "later"), 1)),
        "contract-1": (
            files_of("normalised"),
            1,
            put(("body", "engines", 0, "preprocessing", "normalise"), 1),
        ),
        "proof-not-asked": (carried, 1, take(*inputs, "proof")),
        "asked-without-proof": (carried, 1, take(*body, "proof")),
        "proof-without-chunks": (carried, 1, take(*inputs, "chunks")),
        "embedded-by-another": (tiles, 1, put((*index, "embedded_by", "step_key"), sha("x"))),
        "stand-in-without-golden": (files_of("stand-in"), 1, take(*index, "embedded_by", "golden")),
        "golden-without-threshold": (files_of("stand-in"), 1, take(*inputs, "checks", "parity_ppb")),
        "golden-without-target": (files_of("stand-in"), 1, take(*index, "embedded_by", "target")),
        "vector-space": (files_of("networks"), 1, put((*body, "vector_space"), sha("x"))),
        "weight-0": (files_of("networks"), 1, put((*inputs, "models", 0, "weight_ppm"), 0)),
        "descriptors-missing": (files_of("networks"), 1, take(*body, "descriptors")),
        "descriptors-unordered": (
            files_of("networks"),
            1,
            lambda found: found["body"]["descriptors"].reverse(),
        ),
        "engines-unordered": (files_of("networks"), 1, lambda found: found["body"]["engines"].reverse()),
    }
    for name, (files, number, change) in wrong.items():
        device = ORIN if files is files_of("stand-in") else CPU
        yield no(
            name,
            "manifest-invalid",
            "the manifest contradicts itself",
            changed(files, change, number),
            device=device,
        )
    yield from _columns()


def _columns() -> Iterator[Case]:
    files = files_of("columns")
    networks = ("body", "networks")
    written = json.loads(files[FIRST])["body"]["networks"]
    same = next(
        (table, name)
        for table in sorted(written)
        for name in sorted(written[table])
        if isinstance(written[table][name], str)
    )
    long = next(
        name for name, values in written["models"].items() if isinstance(values, list) and len(values) > 1
    )
    short = next(name for name, values in written["models"].items() if len(values) == 1)
    source = written[same[0]][same[1]]
    table, _, pointer = source.partition("/")
    wrong: dict[str, Callable[[Any], object]] = {
        "written-twice": put((*networks, *same), written[table]["/" + pointer]),
        "not-cut": put((*networks, "models", short), written["models"][short] * 10),
        "too-short": put((*networks, "models", long), written["models"][long][:-1]),
        "unknown-column": put((*networks, *same), "models/nothing"),
        "no-pointer": put((*networks, "models", "name"), ["x"]),
        "map-in-column": put((*networks, "models", short), [{"a": 1}]),
        "sixty-five-rows": put((*networks, "models", long), ["x"] * 65),
        "no-models": take(*networks, "models"),
        "empty": put(networks, {}),
    }
    for name, change in wrong.items():
        # Their identity cannot be computed anew, and is not: the columns alone are wrong.
        document = json.loads(files[FIRST])
        change(document)
        yield no(
            f"columns-{name}",
            "manifest-invalid",
            "columns of another form",
            signed(files, 1, encode(document) + b"\n"),
            device=BOTH,
        )
    few = changed(files_of("networks"), put(networks, {"models": {"/name": ["a"]}}))
    yield no("columns-of-few", "manifest-invalid", "columns beside what is written out", few)


def _floors_and_devices() -> Iterator[Case]:
    tiles, second, jetson = files_of("tiles"), files_of("second"), files_of("stand-in")
    yield no("below-the-floor", "floor", "a generation below the floor", second, floor=3)
    yield no(
        "older-below-the-floor",
        "floor",
        "an older generation by its number, below the floor",
        second,
        floor=2,
        generation=1,
    )
    yield no(
        "below-its-floor", "floor", "a generation below the floor of its cache", tiles, floor={CACHE_ID: 2}
    )
    yield no("unknown-cache", "floor", "a cache that nobody adopted here", tiles, floor={"ab" * 16: 1})
    yield no("no-floors", "floor", "no cache was adopted here", tiles, floor={})
    old: Mapping[str, Any] = {**CPU, "libraries": {"onnxruntime": "1.2.30"}}
    yield no("another-version", "device", "another version of the library", tiles, device=old)
    yield no("no-gpu", "device", "an engine for a GPU where there is none", jetson, device=CPU)
    for name, gpu in {"another-capability": ("sm72", "Orin"), "another-model": ("sm87", "Orin Nano")}.items():
        device = {**ORIN, "gpu": {"capability": gpu[0], "name": gpu[1]}}
        yield no(name, "device", "another GPU", jetson, device=device)
    yield no(
        "another-target",
        "device",
        "a target that no processor has",
        changed(tiles, put(("body", "engines", 0, "target"), "cpu2")),
    )
    yield no(
        "another-backend",
        "device",
        "a backend that is not known",
        changed(tiles, put(("body", "engines", 0, "backend"), "tvm")),
    )
    for name, target, capability in (
        ("rtx-not-portable", "portable", "sm75"),
        ("rtx-not-listed", "sm86+sm89", "sm8"),
    ):
        files = changed(
            changed(tiles, put(("body", "engines", 0, "backend"), "tensorrt-rtx")),
            put(("body", "engines", 0, "target"), target),
        )
        device = {"libraries": {}, "gpu": {"capability": capability, "name": "x"}, "openvino_target": None}
        yield no(name, "device", "a GPU that is not among the target's", files, device=device)
    yield no(
        "auxiliary-elsewhere",
        "device",
        "one of several engines is for another device",
        files_of("columns"),
        device={**BOTH, "libraries": {"onnxruntime": "9"}},
    )
