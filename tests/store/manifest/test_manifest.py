import copy
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.base.canonical_json import decode, encode, sha256
from store.base.identity import build_identity
from store.base.values import GENESIS_CHAIN, ArtifactRef, Position
from store.cache.view import open_view
from store.disk.layout import Layout
from store.domain.attachments import GOLDEN, with_attached
from store.domain.manifest_projection import body_of, head_projections, project, render
from store.errors import DamagedHistoryError, ErrorKind, NoGoError
from store.manifest import manifest as m
from store.manifest.file_names import MAX_MANIFEST_BYTES
from tests.examples_tried import examples
from tests.played_builds import Scenario
from tests.store_caches import record_builds


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """State and bytes of the manifests of two builds."""
    layout = Layout(tmp_path_factory.mktemp("manifest") / "cache")
    record_builds(layout, Scenario(), Scenario(flight="f2"))
    names = layout.manifest_files()
    return open_view(layout).state, [(layout.manifests / names[number]).read_bytes() for number in (1, 2)]


@pytest.fixture(scope="module")
def raw(history):
    return history[1][0]


def test_a_manifest_is_projected_and_read(history):
    state, files = history
    for number, data in enumerate(files, 1):
        generation = state.generations[number]
        assert project(state, generation) == data
        found = m.parse(data)
        assert found.raw == data
        assert found.sha256 == sha256(data) == generation.manifest_sha256
        assert found.body_sha256 == generation.body_sha256 == m.body_digest(found.body)
        assert found.envelope == m.Envelope(
            cache_id=state.cache_id,
            generation=number,
            origin=number,
            before=generation.before,
            wall_ns=generation.wall_ns,
        )
        build = state.builds[number]
        assert found.identity == build.identity == build_identity(found.inputs)
        assert (found.tiles, found.tile_count) == (build.tiles.table, 3)
        assert (found.calibration, found.geography) == (build.calibration, build.coverage.geography)
        assert found.descriptor_engine is found.engines[0]
        assert found.descriptor_engine.artifact == build.engines[0][1].artifact
        assert found.index.artifact == build.index.artifact
        assert found.vector_space == build.index.components["space"]
        assert [role for role, _ in found.artifacts()] == [
            "calibration",
            "tile table",
            "geographic report",
            "engine place",
            "descriptor index",
            "block table",
        ]


def test_form_of_the_file(raw):
    document = decode(raw[:-1])
    assert raw == encode(document) + b"\n"
    assert document.keys() == {"format", "body", "envelope"}
    assert document["format"] == 1
    assert document["envelope"].keys() == {"cache_id", "generation", "origin", "prev_head", "time_ns"}
    assert document["envelope"]["prev_head"].keys() == {"seq", "chain"}


def test_body_does_not_depend_on_the_generation(history):
    state, files = history
    body = m.parse(files[0]).body
    envelope = m.Envelope(cache_id="x", generation=9, origin=1, before=Position(4, GENESIS_CHAIN), wall_ns=1)
    assert m.parse(render(body, envelope)).body_sha256 == m.parse(files[0]).body_sha256
    assert body_of(state, state.builds[1]) == body


def test_projections_in_the_journal(raw):
    assert head_projections(3, raw) == {
        b"head": encode({"generation": 3, "manifest_sha256": sha256(raw)}),
        b"manifest": raw,
    }


@pytest.mark.parametrize("part", ["tiles", "index", "coverage", "calibration", "engines"])
def test_a_build_without_all_its_parts_has_no_body(history, part):
    state, _ = history
    build = replace(state.builds[1], **{part: () if part == "engines" else None})
    with pytest.raises(DamagedHistoryError) as damaged:
        body_of(state, build)
    assert damaged.value.kind is ErrorKind.IMPOSSIBLE_HISTORY


@pytest.mark.parametrize("part", ["carry", "proof"])
def test_a_build_without_what_was_asked_for_has_no_body(history, part):
    state, _ = history
    build = replace(state.builds[1], inputs={**state.builds[1].inputs, part: {"tiles": True}}, format=0)
    with pytest.raises(DamagedHistoryError):
        body_of(state, build)


def test_which_engine_embedded(history):
    state, _ = history
    build = state.builds[1]
    engine = build.engines[0][1]
    assert body_of(state, build)["index"]["embedded_by"]["sha256"] == engine.artifact.sha256
    stand_in = replace(engine, artifact=ArtifactRef(sha256="ab" * 32, size=1), purpose="stand-in")
    assert (
        body_of(state, replace(build, stand_ins=(("place", stand_in),)))["index"]["embedded_by"]["sha256"]
        == "ab" * 32
    )
    assert (
        "golden"
        not in body_of(state, replace(build, stand_ins=(("place", stand_in),)))["index"]["embedded_by"]
    )
    golden = ArtifactRef(sha256="cd" * 32, size=7)
    answered = replace(stand_in, signature=with_attached(stand_in.signature, {GOLDEN: golden}))
    body = body_of(state, replace(build, stand_ins=(("place", answered),)))
    assert body["index"]["embedded_by"]["golden"] == {"sha256": "cd" * 32, "size": 7}
    models = [dict(model, role="auxiliary") for model in build.inputs["models"]]
    nobody = replace(build, inputs=dict(build.inputs, models=models))
    assert body_of(state, nobody)["index"]["embedded_by"] == {}


def test_a_body_of_a_later_format(history):
    state, _ = history
    with pytest.raises(DamagedHistoryError):
        body_of(state, replace(state.builds[1], format=2))


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": {}},
        {"inputs": {"models": 1}},
        {"inputs": {"models": ["x"]}},
        {"inputs": {"models": [{"name": {}}]}},
        {"inputs": {"models": []}},
    ],
)
def test_a_build_with_strange_inputs_has_no_body(history, changes):
    state, _ = history
    with pytest.raises(DamagedHistoryError):
        body_of(state, replace(state.builds[1], **changes))
    name, engine = state.builds[1].engines[0]
    with pytest.raises(DamagedHistoryError):
        body_of(state, replace(state.builds[1], engines=((name, replace(engine, components={})),)))


def refused(data):
    with pytest.raises(NoGoError) as found:
        m.parse(data)
    assert found.value.kind is ErrorKind.MANIFEST_INVALID
    assert found.value.reasons
    return found.value.reasons[0]


def test_lengths(raw):
    for length in range(0, len(raw), 7):
        refused(raw[:length])
    assert "cut short" in refused(raw[:-1])
    refused(raw + b"\n")
    assert f"{MAX_MANIFEST_BYTES:,}" in refused(raw + b" " * MAX_MANIFEST_BYTES)


@settings(max_examples=examples(300))
@given(data=st.data())
def test_mutated_bytes_are_refused_or_another_manifest(raw, data):
    bad = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(bad) - 1))
        match data.draw(st.sampled_from(["flip", "set", "drop", "double"])):
            case "flip":
                bad[at] ^= 1 << data.draw(st.integers(0, 7))
            case "set":
                bad[at] = data.draw(st.sampled_from(b'0123456789abcdef"{}[],:- tn'))
            case "drop":
                del bad[at]
            case "double":
                bad[at:at] = bad[at : at + data.draw(st.integers(1, 40))]
    try:
        found = m.parse(bytes(bad))
    except NoGoError as error:
        assert error.kind is ErrorKind.MANIFEST_INVALID
        return
    assert found.sha256 == sha256(bytes(bad))


@given(st.binary(max_size=60), st.booleans())
def test_anything_else_is_refused(data, line):
    refused(data + b"\n" * line)


def paths_of(value, here=()):
    yield here
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from paths_of(inner, (*here, name))


@settings(max_examples=examples(300))
@given(data=st.data())
def test_mutated_documents_are_refused_or_another_manifest(raw, data):
    """Well-formed JSON with anything in the place of anything."""
    document = decode(raw[:-1])
    *way, last = data.draw(st.sampled_from([path for path in paths_of(document) if path]))
    holder = document
    for name in way:
        holder = holder[name]
    if data.draw(st.booleans()):
        holder[last] = data.draw(
            st.sampled_from(
                [None, True, 0, -1, 1 << 63, "", "x" * 300, [], {}, [[]], {"a": {}}, "../../etc/passwd"]
            )
        )
    else:
        del holder[last]
    try:
        found = m.parse(encode(document) + b"\n")
    except NoGoError as error:
        assert error.kind is ErrorKind.MANIFEST_INVALID
        return
    for _, ref in found.artifacts():
        assert "/" not in ref.sha256
        assert ref.size >= 0
    assert len([engine for engine in found.engines if engine.role == "descriptor"]) == 1


def change(document, path, value):
    changed = copy.deepcopy(document)
    holder = changed
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = value
    return encode(changed) + b"\n"


def rehashed(document, path, value):
    changed = decode(change(document, path, value)[:-1])
    changed["body"]["identity"] = build_identity(changed["body"]["inputs"])
    return encode(changed) + b"\n"


SHA = "ef" * 32


def test_a_stand_in_is_read(raw):
    document = decode(raw[:-1])
    assert m.parse(raw).stand_ins == {}
    named = dict(document["body"]["index"]["embedded_by"], step_key=SHA, golden={"sha256": SHA, "size": 9})
    document = decode(change(document, ("body", "index", "embedded_by"), named)[:-1])
    found = m.parse(rehashed(document, ("body", "inputs", "checks"), {"parity_ppb": 990_000_000}))
    golden = ArtifactRef(sha256=SHA, size=9)
    (stand_in,) = found.stand_ins.values()
    assert (stand_in.golden, stand_in.step_key) == (golden, SHA)
    assert stand_in.least_cosine == 0.99
    assert ("golden answers", golden) in [*found.artifacts()]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("format",), 3, "format 3 without levels of chunks, several networks, carried tiles or an area"),
        (("format",), 4, "another version"),
        (("format",), 2, "format 2 without an index delta"),
        (("body", "index", "delta"), {}, "format 1 with an index delta"),
        (("format",), 0, "another version"),
        (("format",), True, "something else"),
        (("format",), "1", "something else"),
        (("body",), [], "something else"),
        (("envelope",), None, "something else"),
        (("more",), 1, "something else"),
        (("envelope", "more"), 1, "envelope holds"),
        (("envelope", "generation"), -1, "a count"),
        (("envelope", "generation"), True, "a count"),
        (("envelope", "time_ns"), 1 << 63, "a count"),
        (("envelope", "cache_id"), "x" * 257, "a short text"),
        (("envelope", "prev_head", "chain"), "xy", "64 hexadecimal"),
        (("body", "identity"), SHA, "identity"),
        (("body", "inputs", "flight_id"), "other", "identity"),
        (("body", "tiles", "digest"), SHA, "another tile set"),
        (("body", "calibration", "sha256"), SHA, "another tile set or calibration"),
        (("body", "calibration", "name"), "x", "digest and size alone"),
        (("body", "index", "artifact", "sha256"), "../" + "a" * 61, "64 hexadecimal"),
        (("body", "engines", 0, "model"), "../x", "model name"),
        (("body", "engines", 0, "model"), "other", "engines are not those"),
        (("body", "engines", 0, "role"), "auxiliary", "engines are not those"),
        (("body", "engines", 0, "preprocessing"), {}, "engines are not those"),
        (("body", "engines", 0, "signature"), [], "a map"),
        (("body", "engines"), [], "engines are not those"),
        (("body", "geography"), {}, "KeyError"),
        (("body", "index", "embedded_by", "step_key"), SHA, "nothing compares them"),
        (("body", "index", "embedded_by", "golden"), {"sha256": SHA}, "digest and size alone"),
        (("body", "index", "embedded_by", "golden"), {"sha256": SHA, "size": 1}, "KeyError: 'parity_ppb'"),
    ],
)
def test_reasons(raw, path, value, reason):
    assert reason in refused(change(decode(raw[:-1]), path, value))


def test_engines_have_to_be_those_of_the_inputs(raw):
    document = decode(raw[:-1])
    twice = document["body"]["engines"] * 2
    assert "engines are not those" in refused(change(document, ("body", "engines"), twice))
    auxiliary = change(document, ("body", "engines", 0, "role"), "auxiliary")
    changed = rehashed(decode(auxiliary[:-1]), ("body", "inputs", "models", 0, "role"), "auxiliary")
    assert "no engine has the role" in refused(changed)
    other = rehashed(document, ("body", "inputs", "calibration"), SHA)
    assert "calibration" in refused(other)


@pytest.mark.parametrize("order", [("zebra", "place"), ("place", "place")])
def test_models_are_in_the_order_of_their_names_each_once(raw, order):
    document = decode(raw[:-1])
    body = document["body"]
    (model,) = body["inputs"]["models"]
    body["inputs"]["models"] = [model | {"name": name, "role": "auxiliary"} for name in order]
    body["inputs"]["models"][-1]["role"] = "descriptor"
    (engine,) = body["engines"]
    body["engines"] = [
        engine | {"model": each["name"], "role": each["role"]} for each in body["inputs"]["models"]
    ]
    body["engines"] = list({each["model"]: each for each in body["engines"]}.values())
    body["identity"] = build_identity(body["inputs"])
    assert "order of their names" in refused(encode(document) + b"\n")


def test_checks_are_those_of_the_time_of_the_commit(history):
    """What becomes of a check later never changes a manifest that exists."""
    state, files = history
    later = state.copy()
    later.step_cache.passed.clear()
    assert project(later, later.generations[1]) == files[0]
    assert decode(files[0][:-1])["body"]["checks"][0]["check"] == "parity"
