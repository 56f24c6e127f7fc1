"""Array libraries in and out. The only importers of frameworks, and only of those whose arrays arrive."""
