"""The command `inception-jax`, one file a command."""
