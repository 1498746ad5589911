#!/bin/bash
# wbfs: one mount a node, made before its first job and kept for the next ones. In slurm.conf:
#   Prolog=/etc/slurm/wbfs.sh
#   Epilog=/etc/slurm/wbfs.sh
# A prolog that fails drains its node. The API key is in <<token-file>>, mode 0600.
set -u
export WBFS_CACHE_DIR=<<cache-dir>> WANDB_BASE_URL=<<server>> WBFS_TOKEN_FILE=<<token-file>>
wbfs=<<wbfs>>
source=<<source>>
mountpoint=<<mountpoint>>

# Jobs that start at once wait for each other here; the daemon does not keep the lock.
exec 9>/run/wbfs.lock
flock --wait 120 9 || exit 1

"$wbfs" status --timeout 5 "$mountpoint" >/dev/null 2>&1
state=$?
if [ "$state" = 5 ]; then
    # It hangs; 4 is a dead one, which the next mount takes down itself.
    "$wbfs" umount --force "$mountpoint" 9>&-
fi
case "${SLURM_SCRIPT_CONTEXT:-}" in
prolog_slurmd)
    [ "$state" = 0 ] && exit 0
    "$wbfs" mount --make-dir --allow-other "$source" "$mountpoint" 9>&-
    ;;
epilog_slurmd)
    # What a job has mounted itself, and left behind when it was killed.
    "$wbfs" umount --dead 9>&- || :
    ;;
esac
