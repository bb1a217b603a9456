"""One file a metric, or a family of them; a file here is found by itself."""
