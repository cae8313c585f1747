"""The report page of a build: one HTML file that needs no network.

Of this repository it imports only what decodes tiles. The page never loads anything from elsewhere.
"""
