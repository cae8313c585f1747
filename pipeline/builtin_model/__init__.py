"""The built-in descriptor network `builtin:place`, and how much of a tile is blank.

It imports `pipeline.errors` and NumPy, and `onnx` when it makes the model. It never downloads anything.
"""
