"""One paper, one file. A file here is found by itself; nothing lists it."""
