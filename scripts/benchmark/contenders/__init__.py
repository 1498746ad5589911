"""wbfs and its peers: mounts and downloads. Each turn starts with empty caches."""

WBFS, WBFS_RUN = "wbfs", "wbfs --run auto"
RCLONE_DEFAULTS, RCLONE_TUNED = "rclone, defaults", "rclone, tuned"
SDK, CURL = "SDK", "curl"
ARIA2C, ARIA2C_CHECKED = "aria2c", "aria2c --checksum"
NATIVE, BARE, LEAST = "native", "do-nothing daemon", "least daemon"
CONNECTIONS = 16
"""How many aria2c makes, which allows no more to one server; wbfs has as many, and the least."""
LEAST_GET, LEAST_BATCH = "least download", "least batch"
