"""The command `inception-jax`. Each of its commands is the file of the same name.

Every command file has `add_arguments(parser)` and `run(args)`, which returns the exit code, and
`EXAMPLES` for its help.
"""
