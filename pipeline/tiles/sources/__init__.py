"""One module per kind of tile source, and the registry that names them.

A new kind is one module and one row of the registry. It imports `pipeline.tiles` and never decodes pixels.
"""
