"""Decide which caches may fly: signatures, key files, rollback protection, the GO/NO-GO policy, readiness.

Part of the aircraft's code. It imports `store.base`, `store.formats`, `store.manifest`, `store.files` and
`store.errors`. It never reads a cache: callers pass bytes and keys. It is pure but for two modules, which read
and write key files and floor files.
"""
