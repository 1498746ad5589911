"""What users give: options, paths, and names of sources."""
