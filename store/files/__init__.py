"""Read files that cannot be swapped afterwards: regular files, sealed memory, permissions.

Part of the aircraft's code. It imports `store.base` and `store.errors`. It never follows a symbolic link and
never writes into a cache.
"""
