"""Geometry of the ground: chunks on their lattice, what a camera sees, distances, corridors; and pictures of chunks.

It imports the rest of `store.base` and NumPy. Pure: values in, values out.
"""
