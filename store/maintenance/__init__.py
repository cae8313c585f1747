"""Keep a cache in order: collect garbage, rebuild the journal from segments, sign, recover signatures.

It imports `store.cache` and below. Each command takes the build lock of its caller and journals what it does.
"""
