"""The kinds of tile source: one module for each, and the registry that lists them.

A new kind is one module and one row of the registry; archives are in a folder of their own. It imports
`pipeline.tiles` and what that imports. It lists tiles and reads their encoded bytes, and never decodes pixels;
`raster` renders tiles, and encodes them.
"""
