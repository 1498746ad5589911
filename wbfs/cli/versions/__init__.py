"""Commands about versions: which ones runs used, and which ones aliases are locked to."""
