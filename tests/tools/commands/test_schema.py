"""`c10 schema`: what it prints takes what C10 takes, and little else."""

import copy
import json
from datetime import date
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from pipeline import BuildRequest, C10ProvisionerConfig
from pipeline.errors import RequestError
from store.toml import tomllib
from tests.golden.answers import enumerate_values
from tests.sample_request import REQUEST
from tools.cli import cli
from tools.commands.schema import answer_schemas

WHOLE = {
    **tomllib.loads(REQUEST),
    "altitude_m": [100, 150],
    "chunks": {"overlap": 0.5},
    "carry": {"tiles": True, "max_bytes": 5},
    "engine": {
        "precision": "fp16",
        "batch": 4,
        "plugins": ["a.so"],
        "tf32": False,
        "timeout_s": 5,
        "target": "x",
    },
    "index": {"kind": "hnsw", "m": 8, "ef": 16, "storage": "fp16", "nprobe": 3, "delta": False},
    "coverage": {"min_fraction": 0.5},
    "checks": {"parity": 0.9, "recall": 0.5},
    "proof": {"pictures": "a.csv", "min": 0.5, "within_m": 5, "at": 2, "near_m": 9},
}
WHOLE["tiles"] |= {"on_bad": "skip", "captured": "days.csv", "as_of": date(2026, 1, 1), "max_age_days": 9}
WHOLE["models"][0] |= {
    "head": {"kind": "vlad", "words": 2, "dimensions": 9, "fit": "anew"},
    "profile": {"min": [1, 3], "opt": [2, 3], "max": [3, 3]},
    "onnx": "x.onnx",
    "size": [32, 64],
    "mean": [0, 0, 0],
    "std": [1, 1, 1],
    "weight": 2,
    "normalise": True,
}
VALUES = (
    True,
    0,
    1,
    -1,
    3,
    1.5,
    -0.5,
    1e12,
    "",
    "x",
    "a b",
    "fp32",
    [],
    [1],
    [1, 2],
    [2, 1],
    [1, 2, 3],
    ["a"],
)
VALUES += (
    ["a", "a"],
    [["a"]],
    {},
    {"x": 1},
    [0.5, 0.5, 0.5],
    [200, 1, 2, 3],
    [1, 2, 3, 4],
    "é\n",
    "y" * 2000,
)
RELATED = {
    "bbox",
    "bboxes",
    "zoom",
    "altitude_m",
    "chunks",
    "profile",
    "models",
    "onnx",
    "role",
    "level",
    "min",
    "opt",
}
RELATED |= {"max", "head", "flight_id", "captured", "source", "area", "calibration", "pictures"}
"""What also depends on other keys, on an order, or on which characters can be printed."""


@cache
def printed(name):
    result = CliRunner().invoke(cli, ["schema", name, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(CliRunner().invoke(cli, ["schema", name]).stdout) == json.loads(result.stdout)
    schema = json.loads(result.stdout)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value) if isinstance(value, date) else json.dumps(value)


def is_request(document):
    text = "\n".join(f"{key} = {toml(value)}" for key, value in document.items())
    try:
        BuildRequest.parse(text, base=Path("/nonexistent"))
    except RequestError:
        return False
    return True


def as_json(document):
    return json.loads(json.dumps(document, default=str))


def leaves(document, path=()):
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            yield from leaves(value, (*path, key))


def changed(path, value):
    document = copy.deepcopy(WHOLE)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return document


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.deep if at % 3 else (), id=".".join(map(str, path)))
        for at, path in enumerate(leaves(WHOLE))
    ],
)
def test_the_schema_of_requests_takes_what_a_request_takes(path):
    schema = printed("request")
    assert is_request(WHOLE)
    assert schema.is_valid(as_json(WHOLE))
    for value in VALUES:
        document = changed(path, value)
        takes, allows = is_request(document), schema.is_valid(as_json(document))
        assert allows or not takes, (value, list(schema.iter_errors(as_json(document))))
        # To JSON Schema 1e12 is a whole number.
        if takes != allows and value != 1e12 and not {*map(str, path)} & RELATED:
            pytest.fail(f"the schema allows {path} = {value!r}, and a request does not")


def test_a_request_names_one_area_and_no_unknown_key():
    schema = printed("request")
    several = WHOLE | {"bboxes": [WHOLE["bbox"]]}
    none = {key: value for key, value in WHOLE.items() if key != "bbox"}
    misspelt = WHOLE | {"bbbox": WHOLE["bbox"]}
    without = {key: value for key, value in WHOLE.items() if key != "origin"}
    for document in (several, none, misspelt, without, changed(("tiles", "sauce"), "x")):
        assert not is_request(document)
        assert not schema.is_valid(as_json(document))
    for area in ({"bboxes": [WHOLE["bbox"]]}, {"area": {"file": "a.kml", "width_m": 5, "name": "x"}}):
        assert is_request(none | area)
        assert schema.is_valid(as_json(none | area))


SETTINGS = {
    "coverage_strict": False,
    "lock_timeout_s": 3,
    "manifest_filename": "a-{generation:08d}.json",
    "workers": 2,
    "executor": "ray",
    "ray_address": "host:1234",
    "reserve_mb": 0,
    "signing_key": "key",
    "trusted_keys": ["key.pub"],
    "allow_unknown_filesystem": True,
}


def is_settings(document):
    try:
        C10ProvisionerConfig.from_settings(document, cache_root=Path("/nonexistent"))
    except RequestError:
        return False
    return True


def test_the_schema_of_settings_takes_what_settings_take():
    schema = printed("settings")
    assert set(schema.schema["properties"]) == set(SETTINGS)
    assert schema.is_valid(SETTINGS)
    assert is_settings(SETTINGS)
    for name in (*SETTINGS, "unknown"):
        for value in VALUES:
            document = SETTINGS | {name: value}
            takes, allows = is_settings(document), schema.is_valid(document)
            assert allows or not takes, (name, value)
            assert takes == allows or name in {"manifest_filename", "ray_address"}, (name, value)
    for value in ("", "host", "ray://host:1", 3, [], None, "host:0"):
        assert not is_settings({"ray_address": value})


def test_every_command_has_a_schema_and_nothing_else_does():
    for name in cli.list_commands(None):
        assert "required" in printed(name).schema
    refused = CliRunner().invoke(cli, ["schema", "reqest", "--json"])
    assert refused.exit_code == 2
    assert "found 'reqest'" in json.loads(refused.stdout)["error"]["message"]


def test_the_values_in_the_schemas_are_those_of_their_enumerations():
    shipped, known = answer_schemas(), answer_schemas()
    enumerate_values(known)
    assert known == shipped
    assert shipped["build"]["properties"]["outcome"]["enum"] == ["built", "reused", "failed", None]
