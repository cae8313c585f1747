"""A failed step run again, from what the journal recorded of it and what is left of its inputs."""
