"""The edge: argument vector, environment, exit codes and everything that is printed."""
