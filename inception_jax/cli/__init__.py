"""The program `inception-jax`. Each command has a file of the same name.

Each of these files has `add_arguments(parser)`, `run(args)`, which returns the exit code, and
`EXAMPLES` for the help.
"""
