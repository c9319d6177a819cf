"""The ports in process: a whole cluster on one event loop, for development and tests."""
