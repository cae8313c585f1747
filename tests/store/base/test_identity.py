import copy
import inspect

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from store.base import identity
from store.base.canonical_json import encode
from store.base.identity import (
    build_identity,
    build_inputs,
    cell_components,
    cell_key,
    descriptor_id,
    difference,
    digest_tile_set,
    engine_components,
    engine_key,
    index_components,
    index_key,
    spaces_of_index,
    tile_of,
    vector_space,
)

shas = st.binary(min_size=32, max_size=32).map(bytes.hex)
zooms = st.integers(0, identity.MAX_ZOOM)


@st.composite
def tile_places(draw):
    zoom = draw(zooms)
    side = (1 << zoom) - 1
    return zoom, draw(st.integers(0, side)), draw(st.integers(0, side)), draw(st.integers(0, 255))


tile_ids = tile_places().map(lambda place: descriptor_id(*place))
tile_maps = st.dictionaries(tile_ids, shas, max_size=6)
leaves = st.none() | st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.text(max_size=8)
documents = st.dictionaries(
    st.text(max_size=6),
    st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(tile_places())
def test_descriptor_ids_unpack(place):
    found = descriptor_id(*place)
    assert 0 <= found < 1 << 63
    assert tile_of(found) == place
    zoom, x, y, view = place
    assert found == zoom << 58 | view << 50 | x << 25 | y


@given(tile_places(), tile_places())
def test_descriptor_ids_sort_by_zoom_view_x_y(one, other):
    def order(place):
        zoom, x, y, view = place
        return zoom, view, x, y

    assert (descriptor_id(*one) < descriptor_id(*other)) == (order(one) < order(other))


@pytest.mark.parametrize(
    "place",
    [
        (-1, 0, 0),
        (26, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
        (3, 8, 0),
        (3, 0, 8),
        (3, -1, 0),
        (3, 0, -1),
        (3, 0, 0, 256),
        (3, 0, 0, -1),
        (1 << 40, 0, 0),
    ],
)
def test_tiles_outside_the_world_are_refused(place):
    with pytest.raises(ValueError, match="no tile"):
        descriptor_id(*place)


@given(tile_maps, st.randoms(use_true_random=False))
def test_order_of_tiles_never_matters(tiles, order):
    pairs = list(tiles.items())
    shuffled = list(pairs)
    order.shuffle(shuffled)
    assert digest_tile_set(iter(shuffled)) == digest_tile_set(pairs)


@given(tile_maps, tile_maps)
def test_different_sets_of_tiles_differ(one, other):
    assert (digest_tile_set(one.items()) == digest_tile_set(other.items())) == (one == other)


@given(tile_maps.filter(bool), shas, st.data())
def test_a_tile_that_occurs_twice_is_refused(tiles, sha, data):
    again = data.draw(st.sampled_from(sorted(tiles)))
    with pytest.raises(ValueError, match="occurs twice"):
        digest_tile_set([*tiles.items(), (again, sha)])


ENGINE_ARGUMENTS = {
    "onnx_sha256": shas,
    "backend": st.sampled_from(["onnxruntime", "tensorrt"]),
    "version": st.sampled_from(["1.20", "1.21"]),
    "target": st.sampled_from(["cpu", "orin"]),
    "precision": st.sampled_from(["fp32", "fp16"]),
    "batch": st.integers(1, 64),
    "options": documents,
}
models = st.fixed_dictionaries({"role": st.sampled_from(["descriptor", "auxiliary"]), "onnx": shas})
BUILD_ARGUMENTS = {
    "flight_id": st.text(min_size=1, max_size=8),
    "sector": st.sampled_from(["active_conflict", "stable_rear"]),
    "bbox_e7": st.lists(st.integers(-1_800_000_000, 1_800_000_000), min_size=4, max_size=4),
    "zoom": st.lists(zooms, min_size=2, max_size=2),
    "origin": documents,
    "calibration": shas,
    "tiles": documents,
    "models": st.dictionaries(st.text(max_size=4), models, min_size=1, max_size=3).map(
        lambda found: [{"name": name, **rest} for name, rest in found.items()]
    ),
    "engine": documents,
    "index": documents,
    "checks": documents,
    "area": documents,
    "chunks": documents,
    "imagery": documents,
    "carry": documents,
    "proof": documents,
}


def changes_of(arguments):
    """The name of an argument, and another value of it."""
    return st.sampled_from(sorted(arguments)).flatmap(lambda name: st.tuples(st.just(name), arguments[name]))


@given(st.fixed_dictionaries(ENGINE_ARGUMENTS), changes_of(ENGINE_ARGUMENTS))
def test_any_component_changes_an_engine_key(one, change):
    name, value = change
    changed = {**one, name: value}
    same = encode(one[name]) == encode(value)
    before, after = engine_components(**one), engine_components(**changed)
    assert (engine_key(before) == engine_key(after)) == same
    assert bool(difference(before, after)) == (not same)


@given(st.fixed_dictionaries(BUILD_ARGUMENTS), changes_of(BUILD_ARGUMENTS))
def test_any_component_changes_the_build_identity(one, change):
    name, value = change
    changed = {**one, name: value}
    before, after = build_inputs(**one), build_inputs(**changed)
    same = encode(before) == encode(after)
    if name != "models":
        assert same == (encode(one[name]) == encode(value))
    assert (build_identity(before) == build_identity(after)) == same
    assert bool(difference(before, after)) == (not same)


@given(st.fixed_dictionaries(BUILD_ARGUMENTS), st.randoms(use_true_random=False))
def test_order_of_models_never_matters(arguments, order):
    shuffled = copy.deepcopy(arguments)
    order.shuffle(shuffled["models"])
    assert build_identity(build_inputs(**shuffled)) == build_identity(build_inputs(**arguments))


def test_every_argument_of_an_identity_is_tested():
    """A component that is added later must not escape the tests above."""
    with_build = {"recipes", *inspect.signature(build_inputs).parameters}
    assert {*build_inputs(**an_example(st.fixed_dictionaries(BUILD_ARGUMENTS)))} == with_build
    with_engine = {"recipe", "onnx", *inspect.signature(engine_components).parameters} - {"onnx_sha256"}
    assert {*engine_components(**an_example(st.fixed_dictionaries(ENGINE_ARGUMENTS)))} == with_engine


def an_example(strategy):
    found = []

    @settings(max_examples=1, phases=[Phase.generate], database=None)
    @given(strategy)
    def take(value):
        found.append(value)

    take()
    return found[0]


@pytest.mark.parametrize("step", sorted(identity.RECIPES))
def test_a_recipe_changes_the_keys_that_depend_on_it(step, monkeypatch):
    def keys():
        space = vector_space(engine="e", preprocessing={}, precision="fp32", batch=1)
        return {
            "engine": engine_key(
                engine_components(
                    onnx_sha256="o", backend="b", version="1", target="t", precision="p", batch=1, options={}
                )
            ),
            "cell": cell_key(cell_components(space=space, tiles=[])),
            "index": index_key(index_components(networks=[(space, 1)], blocks="b", options={}, library="l")),
            "build": build_identity(build_inputs(**an_example(st.fixed_dictionaries(BUILD_ARGUMENTS)))),
        }

    inputs = an_example(st.fixed_dictionaries(BUILD_ARGUMENTS))
    before, build_before = keys(), build_identity(build_inputs(**inputs))
    monkeypatch.setattr(identity, "RECIPES", {**identity.RECIPES, step: identity.RECIPES[step] + 1})
    after, build_after = keys(), build_identity(build_inputs(**inputs))
    assert build_before != build_after
    # The recipe of embedding is part of the vector space, on which cells and index hang.
    expected = {"engine": {"engine"}, "cell": {"cell", "index"}, "index": {"index"}}.get(step, set())
    assert {name for name in ("engine", "cell", "index") if before[name] != after[name]} == expected


def test_step_keys_depend_on_each_of_their_parts():
    space = {"engine": "e", "preprocessing": {"size": [1, 1]}, "precision": "fp32", "batch": 1}
    changes = {"engine": "f", "preprocessing": {"size": [1, 2]}, "precision": "fp16", "batch": 2}
    keys = {
        vector_space(**space),
        *(vector_space(**{**space, name: value}) for name, value in changes.items()),
    }
    assert len(keys) == 5
    index = {"networks": [("s", 1)], "blocks": "b", "options": {"kind": "flat"}, "library": "l"}
    changes = {"networks": [("t", 1)], "blocks": "c", "options": {"kind": "hnsw"}, "library": "m"}
    keys = {index_key(index_components(**index))}
    keys |= {index_key(index_components(**{**index, name: value})) for name, value in changes.items()}
    assert len(keys) == 5
    alone = index_key(index_components(**{**index, "networks": [("s", 2)]}))
    assert alone in keys, "the weight of a lone network means nothing"
    several = [
        [("s", 1), ("t", 1)],
        [("t", 1), ("s", 1)],
        [("s", 2), ("t", 1)],
        [("s", 1), ("t", 1), ("u", 1)],
    ]
    keys |= {index_key(index_components(**{**index, "networks": each})) for each in several}
    assert len(keys) == 9
    assert spaces_of_index(index_components(**index)) == ("s",)
    assert spaces_of_index(index_components(**{**index, "networks": several[2]})) == ("s", "t")
    assert spaces_of_index({}) == ("",)
    assert spaces_of_index({"space": "s", "networks": 1}) == spaces_of_index({"networks": [1]}) == ()
    tiles = [(descriptor_id(1, 0, 0), "00" * 32)]
    cells = {
        cell_key(cell_components(space=space, tiles=tiles)) for space, tiles in (("s", tiles), ("t", tiles))
    }
    cells.add(cell_key(cell_components(space="s", tiles=[])))
    assert len(cells) == 3


def test_keys_of_two_kinds_never_agree():
    document = {"a": 1}
    assert len({engine_key(document), cell_key(document), index_key(document), build_identity(document)}) == 4


@given(documents, documents)
def test_difference_names_what_differs(one, other):
    found = difference(one, other)
    assert bool(found) == (encode(one) != encode(other))
    assert difference(one, one) == []
    assert found == difference(other, one)


def test_difference_is_a_list_of_dotted_paths():
    old = {"a": {"b": 1, "c": True}, "d": [1, 2], "e": None}
    new = {"a": {"b": 2, "c": 1}, "d": [1, 3], "f": None}
    assert difference(old, new) == ["a.b", "a.c", "d", "e", "f"]
    assert difference({"a": {}}, {"a": 1}) == ["a"]
    assert difference({"a": [1]}, {"a": [True]}) == ["a"]
    assert difference({"a": (1, [2])}, {"a": [1, (2,)]}) == []
