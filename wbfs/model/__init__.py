"""Plain data: names, versions, entries, digests, settings and errors. No input or output."""
