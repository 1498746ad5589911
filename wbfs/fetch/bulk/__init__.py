"""Many files that somebody named: fetched into the cache, or written to a directory."""
