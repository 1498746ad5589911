"""wbfs and its peers: mounts and downloads. Each turn starts with empty caches."""

WBFS = "wbfs"
RCLONE_DEFAULTS, RCLONE_TUNED = "rclone, defaults", "rclone, tuned"
SDK, CURL = "SDK", "curl"
ARIA2C, ARIA2C_CHECKED = "aria2c", "aria2c --checksum"
NATIVE, BARE = "native", "do-nothing daemon"
