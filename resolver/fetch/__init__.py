"""Lists from other machines: fetched by a process of their own, kept as copies that the builds read."""
