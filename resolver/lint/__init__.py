"""`tampah lint`: what a list's lines mean here and elsewhere, and which of them are of no use."""
