#!/bin/busybox sh
# Process 1 of the guest. Nothing of a bottle is mounted or read here.
export PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/bin HOME=/root TERM=xterm
mount -a -T /bottle/fstab
echo 262144 >/proc/sys/vm/max_map_count # as smolvm has it
exec </dev/null >/dev/kmsg 2>&1
. /bottle/agent.sh
