"""Files' bytes in the cache: while they arrive, and once they are whole. Blocking code."""
