"""What commands say, and where to."""
