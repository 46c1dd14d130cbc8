#!/bin/sh
# Process 1 of the emulated host. It only keeps house; agent.sh does the work in a session of its own.
export PATH=/bin
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
p9=trans=virtio,version=9p2000.L,msize=1048576
mount -t 9p -o "$p9,ro" share /share
mount -t 9p -o "$p9" exchange /exchange 2>/dev/null
ip link set lo up
chmod 666 /dev/kvm
mkdir -p /dev/net /run/port
for port in /sys/class/virtio-ports/*; do
  name=$(cat "$port/name" 2>/dev/null)
  [ -z "$name" ] || ln -s "/dev/${port##*/}" "/run/port/$name"
done
setsid sh /agent.sh </dev/null &
while :; do wait; sleep 1; done
