"""Manifests of caches with several descriptor networks, and what they are refused for."""

import pytest

from pipeline.request.options import ModelRole, ModelSpec
from store.base.canonical_json import decode, encode
from store.base.identity import build_identity
from store.errors import NoGoError
from store.manifest.file_names import MAX_MANIFEST_BYTES
from store.manifest.manifest import parse
from tests.small_builds import FakeSite, tiny_network


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


def test_many_networks_fit(tmp_path):
    raw = built(tmp_path, [f"network-{number:02}" for number in range(32)])
    assert len(raw) < MAX_MANIFEST_BYTES
    assert len(parse(raw).weights) == 32
