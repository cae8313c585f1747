"""The built-in descriptor network `builtin:place`: its graph, its whitening data, how much texture a tile has.

It imports `pipeline.errors` and NumPy. It never downloads anything.
"""
