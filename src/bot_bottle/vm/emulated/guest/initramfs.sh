#!/bin/busybox sh
# The first program of the emulated host: loads the drivers, finds the root disk, hands over to it.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/modules/$module"; done < /modules/order
$b mount -t ext4 -o noatime /dev/vda /new || { echo 'bottle: no root disk'; $b poweroff -f; }
for d in proc sys dev; do $b mount --move "/$d" "/new/$d"; done
exec $b switch_root /new /init
