"""How much the cache has and may have, and what goes first. Blocking code."""
