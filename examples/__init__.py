"""Programs that show what the library is for; each one runs as ``python -m examples.<name>``."""
