"""The command line `c10`: its commands, what they say of builds and failures, the report page, the demo.

It may import `pipeline`, `store` and `journal`, and none of them imports it. Only this package reads
settings from the environment, and prints.
"""
