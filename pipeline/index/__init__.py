"""The FAISS descriptor index: plan its kind, order its rows, build it on CPU or GPU.

It imports `pipeline.request`, `store` and below. It gets vectors and returns bytes; it never opens a cache.
"""
