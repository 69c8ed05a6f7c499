"""Converts data sets to the array_record format."""
