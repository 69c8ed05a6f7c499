"""Devices, processes and hardware."""
