"""The descriptor networks that the inputs of a build name. Pure.

Where several networks describe a place, or descriptors get their length after the network, a manifest has
format 3: a program that knows neither would ask the index with other vectors than it holds.
"""

from collections.abc import Mapping
from typing import Any

from store.base import validators
from store.base.identity import ONE_PPM


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
