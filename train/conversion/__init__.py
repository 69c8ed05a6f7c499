"""Data sets converted to array_record."""
