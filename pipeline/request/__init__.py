"""What a person asks for: read, check and write requests.

It knows the keys of a request and their rules. It imports `pipeline.errors` and `store`. An unknown key is an
error that names the nearest known one. It never reads tiles or networks.
"""
