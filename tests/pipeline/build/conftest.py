"""Tests of whole builds share the engines of networks that are the same, and embed in their own process."""

from tests.shared_engines import builds_in_few_processes, real_workers

__all__ = ["builds_in_few_processes", "real_workers"]
