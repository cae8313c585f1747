"""Cases of caches that must be refused: one for each rule in `docs/manifest.md`, and each kind of file."""

import copy
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from store.base.canonical_json import encode
from store.trust.signatures import KEY_BYTES, signature_file
from tests.conformance.cases import (
    CPU,
    Cache,
    Case,
    artifact_path,
    ask,
    at,
    changed,
    path_to,
    put,
    replaced,
    signed,
    tables_of,
    take,
)
from tests.conformance.sound import ALICE, BOB, CACHE_ID, MALLORY, Files, sha
from tests.conformance.sound_cases import BOTH, ORIN, files_of

FIRST, SIGNATURE = "manifests/00000001.json", "manifests/00000001.sig"

TABLE, BLOCKS, DELTA = (
    ("body", "tiles", "table"),
    ("body", "index", "blocks"),
    ("body", "index", "delta", "artifact"),
)
PACKS = ("body", "carried", "packs")


def cases() -> Iterator[Case]:
    """Yield the cases that are refused."""
    yield from _folders()
    yield from _signatures()
    yield from _forms_of_json()
    yield from _fields()
    yield from _contradictions()
    yield from _floors_and_devices()
    yield from _artifacts()
    yield from _tables()


def no(
    name: str,
    kind: str,
    why: str,
    files: Mapping[str, bytes],
    *,
    links: Mapping[str, str] | None = None,
    folders: tuple[str, ...] = (),
    modes: Mapping[str, int] | None = None,
    **question: Any,
) -> Case:
    """Return a case that is refused with a kind."""
    cache = Cache(files=files, links=links or {}, folders=folders, modes=modes or {})
    return Case(name=name, why=why, cache=cache, ask=ask(**question), verdict={"go": False, "kind": kind})


def without(files: Mapping[str, bytes], *paths: str) -> Files:
    """Return the files without some."""
    return {path: content for path, content in files.items() if path not in paths}


def flipped(files: Mapping[str, bytes], path: str, place: int = -1) -> Files:
    """Flip a bit of one file."""
    content = bytearray(files[path])
    content[place] ^= 1
    return {**files, path: bytes(content)}


def _folders() -> Iterator[Case]:
    tiles, second = files_of("tiles"), files_of("second")
    yield no("empty-folder", "no-generation", "a folder with nothing in it", {})
    yield no(
        "no-manifests", "no-generation", "the folder of manifests is gone", without(tiles, FIRST, SIGNATURE)
    )
    yield no("generation-missing", "no-generation", "a generation that is not there", second, generation=3)
    yield no(
        "generation-0", "no-generation", "there is no generation 0", {"manifests/00000000.json": tiles[FIRST]}
    )
    yield no(
        "seven-digits", "no-generation", "a name of seven digits", {"manifests/0000001.json": tiles[FIRST]}
    )
    no_file = without(tiles, FIRST)
    yield no(
        "manifest-is-link",
        "no-generation",
        "the manifest is a symbolic link",
        {**no_file, "elsewhere": tiles[FIRST]},
        links={FIRST: "../elsewhere"},
    )
    yield no("manifest-is-folder", "no-generation", "the manifest is a folder", no_file, folders=(FIRST,))
    moved = {path.replace("manifests/", "elsewhere/"): content for path, content in tiles.items()}
    yield no(
        "manifests-are-link",
        "no-generation",
        "the folder of manifests is a symbolic link",
        moved,
        links={"manifests": "elsewhere"},
    )
    filler = "x" * (65_537 - len(tiles[FIRST]) - len(',"z":""'))
    yield no(
        "manifest-too-long",
        "no-generation",
        "a manifest of 65,537 bytes",
        changed(tiles, put(("body", "z"), filler)),
    )
    for folder in ("", "artifacts", "manifests"):
        name = f"world-writable-{folder or 'root'}"
        yield no(
            name, "permission", "everybody may write to a folder of the cache", tiles, modes={folder: 0o777}
        )


def _signatures() -> Iterator[Case]:
    tiles, second = files_of("tiles"), files_of("second")
    raw, good = tiles[FIRST], tiles[SIGNATURE]
    yield no("flipped-manifest", "signature", "a bit of the manifest is flipped", flipped(tiles, FIRST, 900))
    yield no(
        "flipped-signature", "signature", "a bit of the signature is flipped", flipped(tiles, SIGNATURE, -9)
    )
    yield no("unsigned-refused", "signature", "nobody signed", files_of("unsigned"))
    yield no(
        "unknown-key", "signature", "signed by a key that is not trusted", signed(tiles, 1, raw, MALLORY)
    )
    yield no("no-keys", "signature", "no key is trusted", tiles, keys="")
    yield no(
        "revoked-key",
        "signature",
        "the key may not sign this generation any more",
        second,
        keys=f"{ALICE.public.hex()} not_after=1",
    )
    strict = f"{ALICE.public.hex()} not_after=9\n{ALICE.public.hex()} not_after=1\n{ALICE.public.hex()}"
    yield no(
        "strictest-limit",
        "signature",
        "of several lines for a key the strictest limit counts",
        second,
        keys=strict,
    )
    other = BOB.sign(raw)
    stolen = good.replace(json.loads(good)["signature"].encode(), other.signature.encode())
    yield no(
        "another-keys-signature",
        "signature",
        "the key id of one key, the signature of another",
        {**tiles, SIGNATURE: stolen},
    )
    yield no(
        "signature-of-another",
        "signature",
        "a signature over another manifest",
        {**tiles, SIGNATURE: second["manifests/00000002.sig"]},
    )
    plain = {**tiles, SIGNATURE: signature_file(_signed_without_domain(raw))}
    yield no("no-domain", "signature", "a signature over the digest without its domain", plain)
    for name, text in {
        "spaces": good.replace(b":", b": "),
        "order": encode(json.loads(good)).replace(b'{"format":1,', b"{")[:-1] + b',"format":1}\n',
        "upper-case": good.upper()
        .replace(b"FORMAT", b"format")
        .replace(b"KEY_ID", b"key_id")
        .replace(b"SIGNATURE", b"signature"),
        "two-lines": good + b"\n",
        "no-line": good[:-1],
        "format-2": good.replace(b'"format":1', b'"format":2'),
        "empty": b"",
    }.items():
        yield no(
            f"signature-{name}", "signature", "a signature file of another form", {**tiles, SIGNATURE: text}
        )
    late = signed(tiles, 1, raw, MALLORY)
    yield no(
        "seventeenth-signature",
        "signature",
        "a place after the sixteenth is not read",
        {**late, "manifests/00000001.sig17": good},
    )
    yield no(
        "signature-is-link",
        "signature",
        "the signature is a symbolic link",
        {**without(tiles, SIGNATURE), "elsewhere": good},
        links={SIGNATURE: "../elsewhere"},
    )
    label = {**tiles, "manifests/x-00000001.sig": good}
    yield no(
        "signature-of-another-name", "signature", "the signature has another label", without(label, SIGNATURE)
    )
    yield from _key_files(tiles)
    newest = second["manifests/00000002.json"]
    half = {**second, "manifests/00000003.json": newest[: len(newest) // 2]}
    yield no("half-a-generation", "signature", "the newest manifest is half written", half)
    yield no("half-and-unsigned", "manifest-invalid", "the newest manifest is half written", half, keys=None)
    empty = {**second, "manifests/00000003.json": b"", "manifests/00000003.sig": good}
    yield no("empty-newest", "signature", "the newest manifest is empty", empty)


def _signed_without_domain(raw: bytes) -> Any:
    made = ALICE._private.sign(bytes.fromhex(sha(raw)))
    return type(ALICE.sign(raw))(key_id=ALICE.key_id, signature=made.hex())


def _key_files(tiles: Files) -> Iterator[Case]:
    alice = ALICE.public.hex()
    small = {
        "zeros": bytes(KEY_BYTES),
        "one": b"\1" + bytes(KEY_BYTES - 1),
        "minus-one": (2**255 - 20).to_bytes(32, "little"),
        "prime": (2**255 - 19).to_bytes(32, "little"),
        "order-8": bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
        "other-order-8": bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    }
    for name, key in small.items():
        yield no(
            f"key-{name}", "keys", "a key under which anybody can sign", tiles, keys=f"{alice}\n{key.hex()}"
        )
    for name, text in {
        "upper-case": alice.upper(),
        "short": alice[:-2],
        "word": f"{alice} trusted",
        "negative": f"{alice} not_after=-1",
        "nineteen-digits": f"{alice} not_after=1000000000000000000",
        "form-feed": f"{alice}\f{alice}",
        "two": f"{alice} {alice}",
        "form-feed-at-end": f"{alice}\f",
        "wide-space": f"{alice}\u00a0not_after=5",
        "carriage-return": f"{alice}\rnot_after=5",
    }.items():
        yield no(
            f"key-file-{name}",
            "keys",
            "a line of a key file has another form",
            tiles,
            keys=f"# ours\n{text}\n",
        )


def _forms_of_json() -> Iterator[Case]:
    tiles = files_of("tiles")
    raw = tiles[FIRST]
    members = json.loads(raw)
    texts: dict[str, bytes] = {
        "spaces": json.dumps(members, sort_keys=True).encode() + b"\n",
        "order": json.dumps(
            {key: members[key] for key in ("format", "body", "envelope")}, separators=(",", ":")
        ).encode()
        + b"\n",
        "twice": raw.replace(b'"format":1}', b'"format":1,"format":1}'),
        "float": raw.replace(b'"format":1}', b'"format":1.0}'),
        "exponent": raw.replace(b'"format":1}', b'"format":1e0}'),
        "minus-zero": raw.replace(b'"skipped":0', b'"skipped":-0'),
        "leading-zero": raw.replace(b'"skipped":0', b'"skipped":00'),
        "slash": raw.replace(b'"f1"', b'"f\\/1"'),
        "escape": raw.replace(b'"f1"', b'"\\u0066\\u0031"'),
        "upper-case": raw.replace(b'"f1"', b'"\\u00E9"'),
        "utf-8": raw.replace(b'"f1"', '"é"'.encode()),
        "delete": raw.replace(b'"f1"', b'"\x7f"'),
        "control": raw.replace(b'"f1"', b'"\x01"'),
        "no-utf-8": raw.replace(b'"f1"', b'"\xff"'),
        "surrogate": raw.replace(b'"f1"', b'"\\ud800"'),
        "surrogates-backwards": raw.replace(b'"f1"', b'"\\udc00\\ud800"'),
        "zero-byte": raw.replace(b'"f1"', b'"\0"'),
        "nan": raw.replace(b'"skipped":0', b'"skipped":NaN'),
        "large": raw.replace(b'"skipped":0', b'"skipped":18446744073709551616'),
        "low": raw.replace(b'"skipped":0', b'"skipped":-9223372036854775809'),
        "digits": raw.replace(b'"skipped":0', b'"skipped":' + b"9" * 5000),
        "no-line": raw[:-1],
        "two-lines": raw + b"\n",
        "carriage-return": raw[:-1] + b"\r\n",
        "mark": b"\xef\xbb\xbf" + raw,
        "utf-16": raw[:-1].decode().encode("utf-16") + b"\n",
        "tail": raw[:-1] + b"{}\n",
        "comma": raw[:-2] + b",}\n",
        "nothing": b"\n",
        "list": b"[1]\n",
        "null": b"null\n",
    }
    for depth in (65, 20_000):
        texts[f"depth-{depth}"] = raw.replace(
            b'"skipped":0', b'"skipped":' + b"[" * (depth - 3) + b"]" * (depth - 3)
        )
    by_units = changed(tiles, put(("body", "later"), {"\uffff": 2, "\U00010000": 1}))[FIRST]
    pair = b'"\\uffff":2,"\\ud800\\udc00":1'
    assert pair in by_units
    texts["order-of-utf-16"] = by_units.replace(pair, b'"\\ud800\\udc00":1,"\\uffff":2')
    for name, text in texts.items():
        yield no(
            f"json-{name}",
            "manifest-invalid",
            "signed bytes that are no canonical JSON",
            signed(tiles, 1, text),
        )


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


def _artifacts() -> Iterator[Case]:
    carried, delta, jetson = files_of("carried"), files_of("delta"), files_of("stand-in")
    roles: dict[str, tuple[Files, str, Mapping[str, Any]]] = {
        "calibration": (carried, path_to(carried, ("body", "calibration")), CPU),
        "area": (carried, path_to(carried, ("body", "inputs", "area")), CPU),
        "tile-table": (carried, path_to(carried, TABLE), CPU),
        "report": (carried, path_to(carried, ("body", "geography", "report")), CPU),
        "engine": (carried, path_to(carried, ("body", "engines", 0, "artifact")), CPU),
        "index": (carried, path_to(carried, ("body", "index", "artifact")), CPU),
        "block-table": (carried, path_to(carried, BLOCKS), CPU),
        "pack-table": (carried, path_to(carried, PACKS), CPU),
        "proof": (carried, path_to(carried, ("body", "proof")), CPU),
        "block": (carried, tables_of(carried)[0], CPU),
        "pack": (carried, tables_of(carried)[-1], CPU),
        "delta": (delta, path_to(delta, DELTA, 2), CPU),
        "whole-index-of-delta": (delta, path_to(delta, ("body", "index", "artifact"), 2), CPU),
        "golden": (jetson, path_to(jetson, ("body", "index", "embedded_by", "golden")), ORIN),
        "block-of-second-network": (files_of("networks"), tables_of(files_of("networks"))[1], CPU),
    }
    for name, (files, path, device) in roles.items():
        yield no(
            f"flipped-{name}", "artifact-damaged", "a bit is flipped", flipped(files, path), device=device
        )
        yield no(
            f"missing-{name}", "artifact-damaged", "the file is missing", without(files, path), device=device
        )
    files, path, _ = roles["engine"]
    yield no("cut-engine", "artifact-damaged", "the last byte is missing", {**files, path: files[path][:-1]})
    yield no("longer-engine", "artifact-damaged", "a byte more", {**files, path: files[path] + b"x"})
    yield no("empty-engine", "artifact-damaged", "no bytes", {**files, path: b""})
    yield no(
        "engine-is-link",
        "artifact-damaged",
        "a symbolic link to the right bytes",
        {**without(files, path), "elsewhere": files[path]},
        links={path: "../../elsewhere"},
    )
    yield no(
        "engine-is-folder",
        "artifact-damaged",
        "a folder in place of a file",
        without(files, path),
        folders=(path,),
    )
    folder = path.rsplit("/", 1)[0]
    moved = {each.replace(folder, "elsewhere"): content for each, content in files.items()}
    yield no(
        "folder-is-link",
        "artifact-damaged",
        "a symbolic link in place of a folder of artifacts",
        moved,
        links={folder: "../elsewhere"},
    )
    moved = {each.replace("artifacts/", "elsewhere/"): content for each, content in files.items()}
    yield no(
        "artifacts-are-link",
        "artifact-damaged",
        "a symbolic link in place of all artifacts",
        moved,
        links={"artifacts": "elsewhere"},
    )
    block = tables_of(files)[0]
    yield no(
        "block-is-link",
        "artifact-damaged",
        "a block is a symbolic link",
        {**without(files, block), "elsewhere": files[block]},
        links={block: "../../elsewhere"},
    )
    other = {"sha256": sha("another engine"), "size": 14}
    named = changed(files, put(("body", "engines", 0, "artifact"), other))
    yield no(
        "other-bytes",
        "artifact-damaged",
        "a file whose content has another digest than its name",
        {**named, artifact_path(other["sha256"]): b"another_engine"},
    )
    upper = {**without(files, path), f"{folder}/{path.rsplit('/', 1)[1].upper()}": files[path]}
    yield no("upper-case-name", "artifact-damaged", "the name in upper case", upper)
    second = without(files_of("second"), path_to(files_of("second"), ("body", "index", "artifact"), 2))
    yield no(
        "newest-incomplete",
        "artifact-damaged",
        "an artifact of the newest generation is missing, and the one before is whole",
        second,
    )


def _tables() -> Iterator[Case]:
    tiles, delta, carried, networks = map(files_of, ("tiles", "delta", "carried", "networks"))
    table, blocks = tiles[path_to(tiles, TABLE)], tiles[path_to(tiles, BLOCKS)]
    joined, packs = networks[path_to(networks, BLOCKS)], carried[path_to(carried, PACKS)]
    count = struct.unpack_from("<Q", table, 8)[0]

    def word(data: bytes, place: int, value: int, form: str = "<Q") -> bytes:
        changed_data = bytearray(data)
        struct.pack_into(form, changed_data, place, value)
        return bytes(changed_data)

    forms: dict[str, tuple[Files, tuple[str | int, ...], int, bytes]] = {
        "tiles-magic": (tiles, TABLE, 1, b"C10TILE2" + table[8:]),
        "tiles-empty": (tiles, TABLE, 1, b""),
        "tiles-header": (tiles, TABLE, 1, table[:15]),
        "tiles-tail": (tiles, TABLE, 1, table + b"\0"),
        "tiles-huge": (tiles, TABLE, 1, word(table, 8, 2**64 - 1)),
        "tiles-wrap": (tiles, TABLE, 1, word(table, 8, count + 2**62)),
        "tiles-unordered": (tiles, TABLE, 1, table[:16] + table[24:32] + table[16:24] + table[32:]),
        "tiles-twice": (tiles, TABLE, 1, table[:16] + table[16:24] * 2 + table[32:]),
        "tiles-another-set": (tiles, TABLE, 1, table[: 16 + 8 * count] + bytes(32) + table[48 + 8 * count :]),
        "tiles-none": (tiles, TABLE, 1, b"C10TILE1" + bytes(8)),
        "blocks-magic": (tiles, BLOCKS, 1, b"C10PCKS1" + blocks[8:]),
        "blocks-tail": (tiles, BLOCKS, 1, blocks + b"\0"),
        "blocks-rows": (tiles, BLOCKS, 1, word(blocks, 16 + 12 * _rows(blocks), 1, "<I")),
        "blocks-huge": (tiles, BLOCKS, 1, word(blocks, 8, 2**61)),
        "blocks-unordered": (tiles, BLOCKS, 1, _swapped(blocks)),
        "joined-one-network": (networks, BLOCKS, 1, word(joined, 16, 1)),
        "joined-weight-0": (networks, BLOCKS, 1, word(joined, 24, 0)),
        "joined-header": (networks, BLOCKS, 1, joined[:20]),
        "joined-huge": (networks, BLOCKS, 1, word(joined, 16, 2**60)),
        "joined-many": (networks, BLOCKS, 1, _of_networks(joined, 65)),
        "packs-tiles": (carried, PACKS, 1, word(packs, 16 + 12 * _rows(packs), 1, "<I")),
        "packs-magic": (carried, PACKS, 1, b"C10BLCK1" + packs[8:]),
    }
    for name, (files, path, number, content) in forms.items():
        yield no(
            f"table-{name}",
            "artifact-damaged",
            "a signed table of another form",
            replaced(files, path, content, number),
        )
    yield no(
        "table-tiles-count",
        "artifact-damaged",
        "a manifest of another number of tiles",
        changed(tiles, put(("body", "tiles", "count"), count - 1)),
    )
    yield no(
        "table-index-rows",
        "artifact-damaged",
        "a manifest of another number of rows",
        changed(tiles, put(("body", "index", "rows"), count - 1)),
    )
    yield no(
        "table-carried",
        "artifact-damaged",
        "a manifest of another number of carried tiles",
        changed(carried, put(("body", "carried", "tiles"), 1)),
    )
    yield from _deltas(delta, word)


def _rows(table: bytes) -> int:
    found: int = struct.unpack_from("<Q", table, 8)[0]
    return found


def _swapped(table: bytes) -> bytes:
    """Return a block table whose first two rows change places in the columns of the key."""
    count, data = _rows(table), bytearray(table)
    for column in range(3):
        start = 16 + 4 * count * column
        data[start : start + 8] = data[start + 4 : start + 8] + data[start : start + 4]
    return bytes(data)


def _of_networks(table: bytes, networks: int) -> bytes:
    """Return a block table of so many networks, whose size fits."""
    count = _rows(table)
    head = table[:16] + struct.pack("<Q", networks) + struct.pack("<Q", 1) * networks
    return head + table[40 : 40 + 16 * count] + bytes(40 * count * networks)


def _deltas(delta: Files, word: Callable[..., bytes]) -> Iterator[Case]:
    good = delta[path_to(delta, DELTA, 2)]
    added, dropped = struct.unpack_from("<2Q", good, 16)
    vectors = 64 + 64 * (-(-8 * added // 64) + -(-8 * dropped // 64))
    forms = {
        "magic": b"C10DELTB" + good[8:],
        "version": word(good, 8, 2, "<I"),
        "dimensions": word(good, 12, 5, "<I"),
        "dimensions-0": word(good, 12, 0, "<I"),
        "added": word(good, 16, added + 1),
        "huge": word(good, 16, 2**63),
        "header": good[:40],
        "padding": word(good, 40, 1),
        "padding-of-ids": word(good, 64 + 8 * added, 1),
        "unordered": good[:64] + good[72:80] + good[64:72] + good[80:],
        "id-of-64-bits": word(good, 64 + 8 * (added - 1), 2**63),
        "nan": word(good, vectors, 0x7FC00000, "<I"),
        "tail": good + bytes(64),
    }
    for name, content in forms.items():
        yield no(
            f"delta-{name}",
            "artifact-damaged",
            "a signed delta of another form",
            replaced(delta, DELTA, content, 2),
        )
    yield no(
        "delta-rows",
        "artifact-damaged",
        "a manifest of other rows than the delta's",
        changed(delta, put(("body", "index", "delta", "dropped"), dropped + 1), 2),
    )
