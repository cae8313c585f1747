"""The descriptor networks that the inputs of a build name. Pure.

Where several networks describe a place, or descriptors get their length after the network, a manifest has
format 3: a program that knows neither would ask the index with other vectors than it holds.
"""

from collections.abc import Mapping
from typing import Any, Final

from store.base import validators
from store.base.canonical_json import Document
from store.base.identity import ONE_PPM
from store.manifest.columns import from_columns, to_columns

COLUMNS: Final = "networks"
"""The member of a body that has what it says of many networks."""

_MOST_WRITTEN_OUT: Final = 8
_ENGINE_CHECK: Final = "engine"


def descriptors_of(inputs: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the documents of the descriptor networks, in the order of their names."""
    return tuple(model for model in inputs["models"] if model["role"] == "descriptor")


def joins_networks(inputs: Mapping[str, Any]) -> bool:
    """Return whether queries must be made of what networks give, and not be it."""
    models = descriptors_of(inputs)
    return len(models) > 1 or any("normalise" in model["preprocessing"] for model in models)


def weight_of(model: Mapping[str, Any]) -> int:
    """Return the weight of a network in units of 1e-6.

    Raises:
        TypeError, ValueError: It is no whole number above 0.
    """
    weight = validators.count(model.get("weight_ppm", ONE_PPM))
    if not weight:
        raise ValueError("a network of weight 0")
    return weight


def with_columns(body: Document) -> Document:
    """Return a body of format 3 as it is written: what it says of more than eight networks is in columns.

    Raises:
        ValueError: There are many networks, and something of them cannot be written so.
    """
    inputs = body["inputs"]
    if len(inputs["models"]) <= _MOST_WRITTEN_OUT:
        return body
    checks = [check for check in body["checks"] if check["check"] == _ENGINE_CHECK]
    flown = {engine["step_key"] for engine in body["engines"]}
    tables = {
        "models": inputs["models"],
        "engines": body["engines"],
        "descriptors": body.get("descriptors", ()),
        # Beside the engines in their order: so most columns are the same as others.
        "checks": [check for check in checks if check["key"] in flown],
        "stand_in_checks": [check for check in checks if check["key"] not in flown],
    }
    return {
        **{name: value for name, value in body.items() if name not in tables},
        "inputs": {name: value for name, value in inputs.items() if name != "models"},
        "checks": [check for check in body["checks"] if check["check"] != _ENGINE_CHECK],
        COLUMNS: to_columns(tables),
    }


def without_columns(body: Document) -> Document:
    """Return a body that may come from anywhere with everything written out, as if there were few networks.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: It is not as `with_columns` writes it.
    """
    if COLUMNS not in body:
        return body
    tables = from_columns(body[COLUMNS])
    inputs = {**body["inputs"], "models": tables.pop("models")}
    checks = [*body["checks"], *tables.pop("checks", ()), *tables.pop("stand_in_checks", ())]
    checks.sort(key=lambda check: (check["check"], check["subject"], check["key"]))
    whole = {name: value for name, value in body.items() if name != COLUMNS}
    return {**whole, **tables, "inputs": inputs, "checks": checks}
