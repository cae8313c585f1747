"""Cases of caches that must be refused before a field of the manifest is read: folders, signatures, keys, JSON."""

import json
from collections.abc import Iterator
from typing import Any

from store.base.canonical_json import encode
from store.trust.signatures import KEY_BYTES, signature_file
from tests.conformance.cases import (
    Case,
    changed,
    flipped,
    no,
    put,
    signed,
    without,
)
from tests.conformance.sound import ALICE, BOB, MALLORY, Files, sha
from tests.conformance.sound_cases import files_of

FIRST, SIGNATURE = "manifests/00000001.json", "manifests/00000001.sig"


def cases() -> Iterator[Case]:
    """Yield them."""
    yield from _folders()
    yield from _signatures()
    yield from _forms_of_json()


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
