"""Manifests of caches with several descriptor networks, and what they are refused for."""

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.request.options import ModelRole, ModelSpec
from pipeline.testing import FakeCompiler
from store.base.canonical_json import decode, encode
from store.base.identity import build_identity
from store.domain.manifest_projection import project
from store.errors import NoGoError
from store.manifest.columns import from_columns, to_columns
from store.manifest.file_names import MAX_MANIFEST_BYTES
from store.manifest.manifest import body_digest, parse
from store.manifest.networks import with_columns
from store.verify.report import Depth
from store.verify.verify import verify
from tests.small_builds import DIMENSIONS, FakeSite, tiny_network


def built(root, names):
    site = FakeSite(root)
    models = []
    for number, name in enumerate(names):
        site.write(f"{name}.onnx", tiny_network(seed=number))
        models.append(ModelSpec(name=name, role=ModelRole.DESCRIPTOR, onnx=f"{name}.onnx"))
    report = site.provisioner().build_cache_artifacts(site.request(models=tuple(models)))
    assert report.error is None, report.error
    return site.head_bytes()


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return built(tmp_path_factory.mktemp("networks"), ["a", "b"])


def refused(raw, change, **inputs):
    document = decode(raw[:-1])
    change(document)
    body = document["body"]
    body["identity"] = build_identity(body["inputs"])
    with pytest.raises(NoGoError) as caught:
        parse(encode(document) + b"\n")
    return str(caught.value)


def test_it_names_each_network_and_its_space(raw):
    found = parse(raw)
    assert [each["model"] for each in found.body["descriptors"]] == ["a", "b"]
    assert [engine.model for engine in found.descriptor_engines] == ["a", "b"]
    assert (found.descriptor_engine.model, found.stand_ins, found.weights) == ("a", {}, (1_000_000,) * 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(format=1), "format 1 with levels of chunks, several networks"),
        (lambda d: d.update(format=2), "format 2 with levels of chunks, several networks"),
        (lambda d: d["body"].pop("descriptors"), "descriptors"),
        (lambda d: d["body"]["descriptors"].reverse(), "not those of the networks asked for"),
        (lambda d: d["body"]["descriptors"].pop(), "not those of the networks asked for"),
        (lambda d: d["body"].update(vector_space="ab" * 32), "the vector space is not that of the networks"),
        (lambda d: d["body"]["descriptors"][1].update(vector_space="ab" * 32), "the vector space is not that"),
        (lambda d: d["body"]["descriptors"][1].update(vector_space="x"), "64 hexadecimal digits"),
        (lambda d: d["body"]["inputs"]["models"][1].update(weight_ppm=2_000_000), "the vector space is not that"),
        (lambda d: d["body"]["inputs"]["models"][1].update(weight_ppm=0), "weight 0"),
        (lambda d: d["body"]["inputs"]["models"][1].update(weight_ppm="1"), "fields of format 3"),
        (lambda d: d["body"]["engines"].reverse(), "order of their names"),
        (
            lambda d: d["body"]["descriptors"][1].update(embedded_by={"step_key": "ab" * 32}),
            "nothing compares them",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(raw, change, reason):
    assert reason in refused(raw, change)


def with_much(document):
    """What 8 levels of chunks and a proof of 1,000 photographs add to a manifest, and its tiles."""
    body, digest = document["body"], "ab" * 32
    measured = {
        "pictures": 1000,
        "right": 900,
        "within_mm": 50_000,
        "at": 1,
        "min_ppm": 900_000,
        "near_mm": 200_000,
    }
    measured |= {"better_half_right_ppm": 1_000_000, "median_mm": 12_345, "size": 1_000_000}
    measured["margins"] = [[12_345 * part, 1000 - 49 * part, 900 - 40 * part] for part in range(20)]
    body["inputs"] |= {
        "chunks": {"levels": [{"zoom": 19, "k": 2, "m": m, "tile_edge": 256} for m in range(4, 12)]},
        "proof": {
            "table": digest,
            "photographs": digest,
            "count": 1000,
            "at": 1,
            "min_ppm": 1,
            "within_mm": 50_000,
        },
        "carry": {"tiles": True},
    }
    body["proof"] = {"sha256": digest, "size": 1_000_000}
    body["carried"] = {
        "packs": {"sha256": digest, "size": 1_000_000},
        "tiles": 100_000,
        "size": 1_000_000_000,
    }
    proof = {
        "check": "proof",
        "subject": "photographs",
        "key": digest,
        "artifact": digest,
        "measured": measured,
    }
    body["checks"].append(proof)


class Elsewhere(FakeSite):
    """A site whose engines are for another device, so that stand-ins embed and are recorded too."""

    def __init__(self, root):
        super().__init__(root)
        self.compiler.device = "sm99"
        self.stand_in = FakeCompiler(calls=self.calls, dimensions=DIMENSIONS, edition="here")

    def provisioner(self, **ports):
        return super().provisioner(**({"stand_in_compiler": self.stand_in} | ports))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The manifest of more networks than are written out."""
    return site_of(12, tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def most(tmp_path_factory):
    return site_of(64, tmp_path_factory.mktemp("most"))


def site_of(count, folder):
    """A cache of so many networks, each of its own weight and image contract, all with stand-ins."""
    site, models = Elsewhere(folder / "site"), []
    for number in range(count):
        site.write(f"{number}.onnx", tiny_network(seed=number))
        own = {
            "weight": 1 + number / 1000,
            "mean": (number / 7, 103.53, 116.28),
            "normalise": number % 3 == 0,
        }
        name = f"a-network-of-{number:02}-layers"
        models.append(ModelSpec(name=name, role=ModelRole.DESCRIPTOR, onnx=f"{number}.onnx", **own))
    report = site.provisioner().build_cache_artifacts(site.request(models=tuple(models)))
    assert report.error is None, report.error
    assert verify(site.layout, depth=Depth.FULL).go
    return site


@pytest.mark.deep
def test_the_most_networks_fit_with_everything_else_that_grows(most):
    document = decode(most.head_bytes()[:-1])
    with_much(document)
    inputs = document["body"]["inputs"]
    models = from_columns(document["body"]["networks"])["models"]
    document["body"]["identity"] = build_identity(inputs | {"models": models})
    raw = encode(document) + b"\n"
    assert len(raw) < MAX_MANIFEST_BYTES
    found = parse(raw)
    assert (len(found.weights), len(found.stand_ins), len(found.levels)) == (64, 64, 8)
    assert found.proof is not None


def test_columns_say_what_is_written_out_for_few(many):
    raw = many.head_bytes()
    found, written = parse(raw), decode(raw[:-1])["body"]
    build = many.state().head_build
    assert found.inputs == build.inputs
    assert found.identity == build.identity == build_identity(found.inputs)
    assert [engine.artifact for engine in found.engines] == [event.artifact for _, event in build.engines]
    assert [engine.model for engine in found.engines] == [model["name"] for model in found.inputs["models"]]
    assert [(each["check"], each["subject"]) for each in found.body["checks"]] == [
        *(("engine", engine.model) for engine in found.engines for _ in ("flown", "stand-in")),
        ("index", "index"),
    ]
    assert with_columns(found.body) == written
    assert found.body_sha256 == build.body_sha256 == body_digest(written)
    assert "models" not in written["inputs"]
    assert written["networks"]["models"]["/role"] == ["descriptor"]


def test_eight_networks_are_written_out_and_nine_are_not(tmp_path):
    for number in (8, 9):
        raw = built(tmp_path / str(number), [f"n{each}" for each in range(number)])
        assert ("networks" in decode(raw[:-1])["body"]) is (number == 9)
        assert len(parse(raw).weights) == number


def test_records_project_to_the_very_bytes(many):
    assert project(many.state(), many.state().head) == many.head_bytes()


def columns(document):
    return document["body"]["networks"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(format=1), "not written as format 3"),
        (lambda d: d["body"].pop("networks"), "models"),
        (lambda d: columns(d).pop("engines"), "engines"),
        (lambda d: columns(d).update(tiles={"/a": [1]}), "not written as format 3"),
        (lambda d: columns(d)["models"]["/weight_ppm"].pop(), "a column /weight_ppm of 11 values for 12"),
        (lambda d: columns(d)["models"].update({"/role": ["descriptor"] * 12}), "not written as format 3"),
        (lambda d: columns(d)["models"].update({"role": ["descriptor"]}), "the column role"),
        (lambda d: columns(d)["models"].update({"/name/x": [1]}), "setdefault"),
        (lambda d: columns(d)["models"].update({"/a" * 40: [1]}), "the column /a"),
        (lambda d: columns(d)["models"].update({"/~01": [1], "/~1": [1]}), "not that of the inputs"),
        (lambda d: columns(d)["models"].update({"/~": [1], "/~0": [2]}), "a second value of /~0"),
        (lambda d: columns(d)["models"].update({"/name": [""] * 300}), "300 documents"),
        (lambda d: columns(d)["models"].update({"/name": 3}), "fields of format 3"),
        (lambda d: columns(d)["engines"].update({"/artifact/sha256": "checks/subject"}), "64 hexadecimal digits"),
        (lambda d: columns(d)["engines"].update({"/artifact/sha256": "models/none"}), "models/none"),
        (lambda d: columns(d)["engines"].update({"/step_key": "checks/artifact"}), "not written as format 3"),
        (lambda d: columns(d).update(models=[]), "fields of format 3"),
        (lambda d: d["body"]["inputs"].update(models=[]), "not written as format 3"),
    ],
)  # fmt: skip
def test_columns_that_are_refused(many, change, reason):
    document = decode(many.head_bytes()[:-1])
    change(document)
    with pytest.raises(NoGoError) as caught:
        parse(encode(document) + b"\n")
    assert reason in str(caught.value)


def aliases(number, values):
    """A column and others of its name: a few bytes for each, and all of its values."""
    return {"/a": values, **{f"/b{each}": "models/a" for each in range(number)}}


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (aliases(800, [1, 2]), "columns"),
        (aliases(0, [1] * 65), "65 documents"),
        (aliases(400, ["x" * 100] * 64), "bytes in columns"),
        (aliases(0, ["x" * 20_000]), "bytes in columns"),
        (aliases(0, [list(range(5000))]), "bytes in columns"),
        (aliases(0, [{str(name): 1 for name in range(2000)}]), "members in a column"),
    ],
)
def test_columns_that_would_take_long_to_read(many, hostile, reason):
    document = decode(many.head_bytes()[:-1])
    columns(document)["models"] = hostile
    with pytest.raises(NoGoError) as caught:
        parse(encode(document) + b"\n")
    assert reason in str(caught.value)


names = st.text(st.sampled_from("ab/~. é"), min_size=1, max_size=4)
values = st.one_of(
    st.integers(-2, 2), st.booleans(), st.text(max_size=3), st.lists(st.integers(0, 1), max_size=2)
)
documents = st.recursive(
    st.dictionaries(names, values, max_size=4),
    lambda inner: st.dictionaries(names, inner | values, max_size=3),
)


@given(st.dictionaries(st.sampled_from(["a", "b", "ab"]), st.lists(documents, max_size=5)))
def test_documents_come_back_from_their_columns(tables):
    # Each has a name of its own, as networks do.
    tables = {
        table: [{**document, "name": str(row)} for row, document in enumerate(found)]
        for table, found in tables.items()
        if len(found) > 1
    }
    assert encode(from_columns(to_columns(tables))) == encode(tables)


def test_columns_that_are_the_same_are_written_once():
    tables = {"a": [{"x": {"y": 1}}, {"x": {"y": True}}], "b": [{"z": 1}, {"z": True}], "c": [{"u": 3}] * 2}
    written = {"a": {"/x/y": [1, True]}, "b": {"/z": "a/x/y"}, "c": {"/u": [3]}}
    assert encode(to_columns(tables)) == encode(written)


@pytest.mark.parametrize(
    "document", [{"a": {"b": None}}, reduce(lambda inner, _: {"a": inner}, range(20), {"a": 1})]
)
def test_what_has_no_columns(document):
    with pytest.raises(ValueError, match=r"null at /a/b|members below"):
        to_columns({"a": [document]})
