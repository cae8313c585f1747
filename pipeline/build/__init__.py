"""Run one build, from its first event to commit or failure, and report the result.

This folder imports `pipeline.stages`, `pipeline.planning` and `store.cache`. It never writes a manifest
itself; the commit does.
"""
