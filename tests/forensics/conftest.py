"""Tests of whole builds share the engines of networks that are the same."""

from tests.shared_engines import engines_are_shared

__all__ = ["engines_are_shared"]
