"""Distributes a run over devices and processes, handles preemption, and describes the hardware."""
