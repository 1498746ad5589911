"""The local cache: blobs and manifests on disk. Blocking code; no trio here."""
