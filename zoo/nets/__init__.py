"""Encoder and decoder pairs, by name. A file here is found by itself."""
