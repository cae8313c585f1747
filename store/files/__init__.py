"""Open and read regular files, copy files into sealed memory, and check the permissions of folders.

Part of the aircraft's code. It imports `store.base` and `store.errors`. It follows symbolic links only on
request, and never writes into a cache.
"""
