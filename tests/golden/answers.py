"""The JSON Schema of what commands answer, made from the answers that tests see, and shipped as `tools/answers.json`.

What is an object, a list or a value of a certain type in every answer is so in the schema, or null. A key at the top
that every answer has, also that to a refused command, is required. Other keys may come.
"""

import json
from functools import reduce
from pathlib import Path

from jsonschema import Draft202012Validator

from pipeline.build.engines_only import EngineOutcome
from pipeline.build.report import BuildOutcome
from pipeline.planning.plan import Decision
from pipeline.request.options import IndexKind, ModelRole, Precision
from pipeline.rerun.report import RerunVerdict
from store.domain.state import BuildStatus
from store.transfer.bundle_history import ImportOutcome
from store.verify.report import Depth
from tests.golden.outward import MADE_UP_KEY
from tools.commands.schema import answer_schemas

FILE = Path(__file__).parents[2] / "tools/answers.json"
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}

SHARED = ("error", "readiness")
"""Keys at the top under which all commands that have them answer the same."""

DEMO_BUILDS = ("build", "changed", "failed", "warm")
"""Keys under which `demo` answers what `build` does."""

STATUS = (*BuildStatus, "died")
DECISION = ("build", "reused")

ENUMERATIONS = {
    "build": {
        "outcome": BuildOutcome,
        "decision": DECISION,
        "steps[].decision": Decision,
        "proof.decision": Decision,
    },
    "plan": {"decision": DECISION, "steps[].decision": Decision, "proof.decision": Decision},
    "engines": {"engines[].outcome": EngineOutcome},
    "import": {"outcome": ImportOutcome},
    "log": {"entries[].status": (*STATUS, "denied", "rolled back")},
    "show": {"status": STATUS, "plan[].decision": Decision},
    "replay": {"status": (*STATUS, "denied", ""), "rerun.verdict": RerunVerdict},
    "report": {"status": (*STATUS, "denied")},
    "diff": {"a.status": BuildStatus, "b.status": BuildStatus},
    "why": {"decisions[].decision": Decision},
    "verify": {"depth": Depth},
    "status": {
        "lately.status": STATUS,
        "engines[].role": ModelRole,
        "engines[].precision": Precision,
        "index.kind": IndexKind,
    },
}
"""Values of which there are a few: command, path of keys, values. Kinds of errors and warnings may become more."""


def described(value):
    """The schema of one value."""
    if value is None:
        return {}
    schema = {"type": sorted({TYPES[type(value)], "null"})}
    if isinstance(value, list):
        schema["items"] = reduce(joined, map(described, value), {})
    if isinstance(value, dict):
        plain = {key: inner for key, inner in value.items() if not MADE_UP_KEY.fullmatch(key)}
        schema["properties"] = {key: described(inner) for key, inner in sorted(plain.items())}
        if len(plain) < len(value):
            made_up = [described(value[key]) for key in sorted(value.keys() - plain.keys())]
            schema["additionalProperties"] = reduce(joined, made_up)
    return schema


def joined(one, other):
    """The schema of what either describes."""
    if not one or not other:
        return one or other
    types = {*one["type"], *other["type"]}
    found = {"type": sorted(types - {"integer"} if "number" in types else types)}
    if "items" in one or "items" in other:
        found["items"] = joined(one.get("items", {}), other.get("items", {}))
    if "additionalProperties" in one or "additionalProperties" in other:
        found["additionalProperties"] = joined(
            one.get("additionalProperties", {}), other.get("additionalProperties", {})
        )
    if "properties" in one or "properties" in other:
        mine, others = one.get("properties", {}), other.get("properties", {})
        found["properties"] = {
            key: joined(mine.get(key, {}), others.get(key, {})) for key in sorted({*mine, *others})
        }
    return found


def add(answers):
    """Write the schemas anew, such that they describe some answers of commands, {command: [answer]}, as well.

    Nothing is taken out: to that end remove the file, and write it with all tests that use it.
    """
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name, documents in answers.items():
        before = known.get(name)
        known[name] = reduce(
            joined, map(described, documents), {**before, "type": ["object"]} if before else {}
        )
        always = [set(each) for each in documents] + ([set(before["required"])] if before else [])
        known[name] |= {"type": "object", "required": sorted(set.intersection(*always) - {"error"})}
    for name in SHARED:
        shapes = [each["properties"][name] for each in known.values() if name in each["properties"]]
        for each in known.values():
            if name in each["properties"]:
                each["properties"][name] = reduce(joined, shapes, {})
    if {"demo", "build"} <= known.keys():
        parts = known["demo"]["properties"]
        build = {**known["build"], "type": ["object"]}
        parts |= {part: joined(parts[part], build) for part in DEMO_BUILDS if part in parts}
    enumerate_values(known)
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(known[name])}" for name in sorted(known))
    FILE.write_text(f"{{\n{text}\n}}\n")


def enumerate_values(known):
    """Say in the schemas of all commands, {command: schema}, which values there are."""
    in_demo = {
        f"{part}.{path}": values for part in DEMO_BUILDS for path, values in ENUMERATIONS["build"].items()
    }
    for name, paths in {**ENUMERATIONS, "demo": in_demo}.items():
        for path, values in paths.items():
            schema = known[name]
            for key in path.replace("[]", ".[]").split("."):
                schema = schema["items"] if key == "[]" else schema["properties"][key]
            assert schema["type"] == ["null", "string"], (name, path)
            schema["enum"] = [*map(str, values), None]


def check(answers):
    """Hold answers of commands, {command: [answer]}, to the schemas that `c10 schema` prints."""
    known = answer_schemas()
    for name, documents in answers.items():
        for document in documents:
            Draft202012Validator(known[name]).validate(document)
