"""Policy zones from their primaries: SOA probes, zone transfers, NOTIFY and TSIG (RFC 1995, 1996, 5936, 8945)."""
