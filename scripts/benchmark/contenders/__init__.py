"""wbfs and its peers: mounts and downloads. Each turn starts with empty caches."""

WBFS = "wbfs"
RCLONE_DEFAULTS, RCLONE_TUNED = "rclone, defaults", "rclone, tuned"
SDK, CURL, ARIA2C = "SDK", "curl", "aria2c"
NATIVE, BARE = "native", "do-nothing daemon"
