"""HTTP on the admin address."""
