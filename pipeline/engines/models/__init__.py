"""The networks of a request: read, check and digest them, and cache what their files declare.

It imports `pipeline.engines.onnx`, `pipeline.request`, `pipeline.tiles` and `pipeline.builtin_model`. It
never compiles.
"""
