"""The built-in descriptor network `builtin:place`, and the texture score of a tile.

It imports `pipeline.errors` and NumPy, and `onnx` when it makes the model. It never downloads anything.
"""
