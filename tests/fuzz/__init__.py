"""Packets at random into the engine. `python -m tests.fuzz` is the long form, `make fuzz` the native one."""
