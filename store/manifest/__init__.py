"""What a manifest says: parse its bytes into entries, and the names of the files that belong to it.

Pure, and part of the aircraft's code. It imports `store.base`. It trusts nothing in the bytes, and never
makes a manifest: that is `store.domain.manifest_projection`.
"""
