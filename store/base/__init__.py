"""Values and rules that all other packages use: canonical JSON, identities, preprocessing, validators.

Also the geometry of the ground, in `geometry`.

Pure: values in, values out. It imports NumPy, Pillow and nothing of the project. It never
touches files, and only `clock` asks for the time.
"""
