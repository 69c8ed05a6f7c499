"""Compiles training steps for devices that this machine does not have."""
