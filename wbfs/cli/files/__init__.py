"""Commands about files: getting them, and what the cache has of them."""
