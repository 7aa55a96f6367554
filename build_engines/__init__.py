"""A recipe becomes engines: export, compress, compile, check, publish."""
