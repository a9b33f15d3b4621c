"""DNSSEC validation: sans-IO checks (RFC 4035, 5155, 6840), the process that makes them, and a worker's end of it."""
