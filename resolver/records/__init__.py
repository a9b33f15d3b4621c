"""Query records, on their way from the workers to what is known of them: which names are asked most."""
