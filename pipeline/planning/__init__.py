"""Decide what a build would do, and why: resolved inputs, the plan, disk space, the report of the area.

This folder imports `pipeline.engines`, `pipeline.embed`, `pipeline.index` and below. It reads files and never
writes.
"""
