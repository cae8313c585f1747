"""The status of a cache."""

import json
from pathlib import Path

from store.base.canonical_json import sha256
from tests.tools.conftest import ACROSS, LEFT, TOP, ZOOM, World


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
        "engines",
        "bbox",
        "captured",
        "rolled_back",
        "signed_by",
        "readiness",
        "warnings",
    ]
    assert (document["flight_id"], document["tiles"], document["wanted"]) == ("tiny", 20, 20)
    assert document["rolled_back"] == {
        "left": 3,
        "why": "just because",
        "forward": [{"generation": 2, "build": 3}],
    }
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


def test_status_tells_what_flies_where_and_from_which_imagery(built, tmp_path):
    text, document = built.run("status").stdout, built.json("status")
    (engine,) = document["engines"]
    assert (engine["name"], engine["backend"], engine["target"], engine["precision"], engine["stand_in"]) == (
        *("tiny", "onnxruntime", "cpu", "fp32"),
        False,
    )
    west, south, east, north = document["bbox"]
    assert west < east
    assert south < north
    assert document["captured"] == {"oldest": "2026-01-15", "newest": "2026-01-15", "undated": 0}
    assert f"engine       tiny: onnxruntime {engine['version']} for cpu, fp32\n" in text
    assert f"box          [{west:.7f}, {south:.7f}, {east:.7f}, {north:.7f}]\n" in text
    assert "imagery      the oldest of 2026-01-15" in text
    assert "signed by    nobody\n" in text
    assert f"readiness    {len(document['warnings'])} warnings, below; c10 verify says GO or NO-GO\n" in text
    assert "forward      c10 rollback --to 2 shows build 3 again\n" in text
    card = World(tmp_path)
    assert built.run("mirror", str(card.cache)).exit_code == 0
    mirrored = card.json("status")
    same = {"engines", "bbox", "captured", "signed_by", "readiness"}
    assert {name: mirrored[name] for name in same} == {name: document[name] for name in same}


def test_the_newest_imagery_is_told_where_it_is_of_another_day(empty):
    dates = "\n".join(f"{ZOOM},{x},{TOP},2026-01-{x - LEFT + 1:02d}" for x in range(LEFT, LEFT + ACROSS))
    (empty.folder / "captured.csv").write_text(f"z,x,y,captured\n{dates}\n")
    request = Path(empty.request)
    request.write_text(request.read_text().replace("captured = 2026-01-15", 'captured = "captured.csv"'))
    assert empty.json("build", empty.request)["outcome"] == "built"
    assert "; the newest of 2026-01-05" in " ".join(empty.run("status").stdout.split())
    assert empty.json("status")["captured"] == {"oldest": "2026-01-01", "newest": "2026-01-05", "undated": 15}
