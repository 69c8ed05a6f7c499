"""Implements the program `inception-jax`. Each command has a module of the same name.

Each of these modules has `add_arguments(parser)`; `run(args)`, which returns the exit code; and
`EXAMPLES`, which the help prints.
"""
