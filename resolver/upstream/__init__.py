"""Forwarding to upstream servers."""
