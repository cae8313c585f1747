"""Decide which caches may fly: signatures, key files, rollback protection, the GO/NO-GO policy.

Part of the aircraft's code. It imports `store.base`, `store.manifest`, `store.files` and `store.errors`. It
never reads a cache: callers pass bytes and keys. It reads and writes only key files and floor files.
"""
