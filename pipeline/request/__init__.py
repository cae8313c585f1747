"""What a person asks for: read, check and write requests.

It imports `pipeline.errors` and `store.base`. An unknown key is an error that names the nearest known one. It
never reads tiles or networks, only the files that say what is wanted.
"""
