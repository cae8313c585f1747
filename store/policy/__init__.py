"""What to do: where to roll back to, what recovery has to set right, which artifacts retention keeps.

Pure decisions over the state; those who carry them out are `store.cache` and `store.maintenance`. It imports
`store.domain` and below, and never does what it decides.
"""
