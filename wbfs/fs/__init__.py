"""The namespace, inode arithmetic, handles and the pyfuse3 operations."""
