"""The native data plane: one extension module, `engine`, put together from the parts in this folder."""
