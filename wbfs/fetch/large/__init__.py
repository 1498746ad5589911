"""Files that come in extents: what to ask for, what is under way, and when all of it is right."""
