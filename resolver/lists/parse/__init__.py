"""One module a dialect; see the parent package's rules.py."""
