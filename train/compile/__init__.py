"""Compiles training steps for devices that this machine lacks; prints the plan of a run."""
