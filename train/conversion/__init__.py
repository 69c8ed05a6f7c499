"""Converts folders of images and TFRecord files into TFDS data sets in the array_record format."""
