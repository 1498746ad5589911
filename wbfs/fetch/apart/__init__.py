"""What works in processes of its own: manifests' tables, and the fetching of small files."""
