"""Files that come whole: one request each, checked before they are served; URLs in batches."""
