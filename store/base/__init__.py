"""Values and small rules that everything else stands on: canonical JSON, identities, preprocessing, validators.

Pure: values in, values out. It imports `store.errors` and NumPy and nothing else of the project. It never
touches files, and only `clock` asks for the time.
"""
