"""The native data plane. `engine.pyi` is its border, `engine.pyx` its table of contents."""
