# Prints what a command finds of its surroundings, a line each: a name, a colon, and what it is.
# What differs from one boot to the next, as sizes of memory and options of one's own file system, is left out.
fact() { echo "$1: $2"; }
one_line() { tr -s ' \t\n' ' ' | sed 's/ $//'; }
fact kernel "$(uname -srvm)"
fact user "$(id)"
for each in Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp; do
  fact "status $each" "$(sed -n "s/^$each:[[:space:]]*//p" /proc/self/status)"
done
while read -r line; do
  case $line in
    Limit* | *processes* | *signals*) ;;
    *) fact "limit ${line%%  *}" "$(echo "${line#*  }" | one_line)" ;;
  esac
done </proc/self/limits
env | sort | while read -r line; do fact "variable ${line%%=*}" "${line#*=}"; done
while read -r _ target kind options _; do
  case $target in
    /storage/*) ;;
    *)
      plain=$(echo "$options" | sed 's/\(lowerdir\)+*=[^,]*/\1/; s/\(upperdir\|workdir\)=[^,]*/\1/g
        s/,\(size\|nr_inodes\)=[^,]*//g; s/,noinit_itable//')
      fact "mount $target" "$kind $plain"
      ;;
  esac
done </proc/self/mounts
for each in /dev/* /dev/*/*; do fact "device $each" "$(stat -c '%A %u:%g %t:%T' "$each" 2>&1)"; done
for each in hosts hostname resolv.conf; do fact "file /etc/$each" "$(one_line </etc/$each 2>&1)"; done
fact hostname "$(hostname)"
fact cgroup "$(cat /proc/self/cgroup) $(ls /sys/fs/cgroup | one_line)"
for each in kernel/pid_max net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range \
  vm/overcommit_memory vm/max_map_count kernel/unprivileged_bpf_disabled kernel/core_pattern; do
  fact "sysctl $each" "$(one_line <"/proc/sys/$each" 2>&1)"
done
for each in /sys/class/net/*; do fact "interface ${each##*/}" "$(cat "$each/mtu" "$each/operstate" | one_line)"; done
fact "process 1" "$(tr '\0' ' ' </proc/1/cmdline)"
fact umask "$(umask)"
fact swap "$(sed -n 's/SwapTotal: *//p' /proc/meminfo)"
fact processors "$(nproc)"
for each in /workspace /tmp /storage /run /; do fact "folder $each" "$(stat -c '%A %u:%g' "$each" 2>&1)"; done
fact /proc "$(ls /proc | grep -v '^[0-9]' | one_line)"
fact "file systems" "$(one_line </proc/filesystems)"
