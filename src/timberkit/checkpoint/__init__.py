"""Files, and nothing but files: finding, validating, reading and writing checkpoints."""
