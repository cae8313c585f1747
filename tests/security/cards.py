"""A card with a cache that an attacker can write to."""

import os
import struct
import zlib
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from store.base.canonical_json import decode, encode
from store.base.identity import build_identity
from store.disk.layout import Layout
from store.errors import NoGoError
from store.manifest import manifest as m
from store.reader import FlightCache
from store.runtime.capabilities import library_version
from store.trust.signatures import Signer, signature_file
from tests.damaging import overwrite
from tests.played_builds import Scenario, play, ref_of
from tests.small_builds import tiny_network
from tests.store_caches import open_writer

VERSION = library_version("onnxruntime") or "1"
ALICE, MALLORY = (Signer.of(Ed25519PrivateKey.from_private_bytes(name * 32)) for name in (b"a", b"m"))
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
FIRST = Scenario(version=VERSION)
SECOND = Scenario(version=VERSION, flight="f2", engine="other", tiles={(0, 0): "a", (1, 0): "x"})


@dataclass(frozen=True, slots=True)
class Card:
    """A cache on a card that an attacker can write to."""

    layout: Layout

    def fly(self, **changes):
        return FlightCache.open(self.layout.root, **({"trusted_keys": [ALICE.public]} | changes))

    def no_go(self, kind, **changes):
        """Open it, which must be refused, and return the reasons."""
        with pytest.raises(NoGoError) as error:
            self.fly(**changes).close()
        assert error.value.kind is kind, error.value.message
        return error.value.reasons

    def manifest(self, generation=2):
        return m.parse(self.file(generation).read_bytes())

    def file(self, generation=2, suffix="json"):
        return self.layout.manifests / f"{generation:08d}.{suffix}"

    def artifact(self, role, generation=2):
        return self.layout.artifact(dict(self.manifest(generation).artifacts())[role].sha256)

    def put(self, data):
        ref = ref_of(data)
        overwrite(self.layout.artifact(ref.sha256), data)
        return {"sha256": ref.sha256, "size": ref.size}

    def forge(self, change=lambda _: None, *, signer=None, render=lambda document: encode(document) + b"\n"):
        """Change the newest manifest; an attacker signs it with a key of theirs, or leaves the old signature."""
        document = decode(self.file().read_bytes()[:-1])
        change(document["body"])
        document["body"]["identity"] = build_identity(document["body"]["inputs"])
        overwrite(self.file(), render(document))
        if signer is not None:
            overwrite(self.file(suffix="sig"), signature_file(signer.sign(self.file().read_bytes())))


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    overwrite(path, bytes(data))


def built(root, *scenarios, signer=ALICE):
    layout = Layout(root)
    with open_writer(layout, signer=signer) as store:
        for scenario in scenarios:
            play(store, scenario)
    return layout


def with_external(folder, location):
    onnx = pytest.importorskip("onnx")
    from onnx.external_data_helper import set_external_data

    model = onnx.load_model_from_string(tiny_network())
    tensor = model.graph.initializer[0]
    content = tensor.raw_data
    set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return content


def png(width, height, data, kind=0):
    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 1 if kind == 0 else 8, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data, 9))
        + chunk(b"IEND", b"")
    )
