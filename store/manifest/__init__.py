"""Parse manifests, and the names of manifest and signature files.

Pure, and part of the aircraft's code. It imports `store.base` and `store.errors`. It treats all bytes as
untrusted, and never creates a manifest: `store.domain.manifest_projection` does.
"""
