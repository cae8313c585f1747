"""Hold a cache against what it says of itself: journal, manifests, artifacts, permissions.

It imports `store.cache`, `store.reader` and below, and never repairs what it finds.
"""
