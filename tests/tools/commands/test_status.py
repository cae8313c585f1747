"""The status of a cache."""

import json

from store.base.canonical_json import sha256


def test_status_has_exactly_the_promised_keys(built):
    document = built.json("status")
    manifest = json.loads(built.manifest_file(3).read_bytes())
    assert list(document) == [
        "generation",
        "build",
        "identity",
        "manifest_sha256",
        "body_sha256",
        "chain",
        "seq",
        "open_build",
        "lately",
        "flight_id",
        "sector",
        "tiles",
        "zoom",
        "levels",
        "wanted",
        "localisable",
        "featureless",
        "skipped",
        "index",
        "carried_bytes",
        "proof",
        "committed",
        "rolled_back",
        "signed_by",
        "readiness",
        "warnings",
    ]
    assert (document["flight_id"], document["tiles"], document["wanted"]) == ("tiny", 20, 20)
    assert document["rolled_back"] == {"left": 3, "why": "just because"}
    index = {"kind": "flat", "dimensions": 48, "added": 0, "dropped": 0}
    assert document["index"] == index | {"networks": [{"name": "tiny", "weight": 1.0}]}
    assert (document["generation"], document["build"], document["open_build"]) == (3, 1, None)
    assert document["identity"] == manifest["body"]["identity"]
    assert document["manifest_sha256"] == sha256(built.manifest_file(3).read_bytes())
    assert len(document["chain"]) == 64
    assert document["seq"] > manifest["envelope"]["prev_head"]["seq"]


def test_status_tells_a_person_about_the_rollback(built):
    result = built.run("status")
    assert "3, shows build 1 (rolled back from build 3: just because)" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines() if str(built.cache) not in line) <= 80
