"""Who may be believed, and what may fly: signatures, key files, rollback protection, the GO/NO-GO policy.

Part of the aircraft's code. It imports `store.base` and `store.manifest`. It never reads a cache by itself:
callers hand it bytes and keys. Key files and floor files are the only files that it touches.
"""
