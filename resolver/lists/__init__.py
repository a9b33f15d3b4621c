"""Reading, compiling and explaining blocklists."""
