"""The command line `c10`: one file per command, the flight recorder, the report page, the demo.

It may import everything below and is imported by nothing. Only this package reads the environment and prints.
"""
