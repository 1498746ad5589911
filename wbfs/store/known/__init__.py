"""What servers said, kept over mounts: names, manifests, sizes, and which runs used what."""
