"""One attempt at a build, from its first event to commit or failure, and what is reported of it.

It imports `pipeline.stages`, `pipeline.planning` and `store.cache`. It never writes a manifest itself: the
commit does.
"""
