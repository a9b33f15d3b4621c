"""Tampah, a filtering DNS forwarder."""

__version__ = "0.1.0"
