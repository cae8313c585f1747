"""The networks of a request: find, check and digest them, and keep what was learned of their files.

It imports `pipeline.engines.onnx`, `pipeline.request` and `pipeline.builtin_model`. It never compiles.
"""
