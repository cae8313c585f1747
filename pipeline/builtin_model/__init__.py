"""The built-in descriptor network `builtin:place`: its graph, its whitening data, and the texture score of a tile.

It imports `pipeline.errors` and NumPy, and `onnx` when it makes the model. It never downloads anything.
"""
