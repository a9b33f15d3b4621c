"""Listeners for transports other than UDP."""
