#!/bin/sh
# Takes commands from bottle, one a line: ID KIND BASE64-SCRIPT, and answers "done ID STATUS".
# KIND: a session's number (its ports carry the three streams), "tty" (the console), or "quiet".
# A script is on no command line: it may hold values of variables.
# When bottle goes away, by any way, the line ends and so does this machine.
export PATH=/opt/smolvm:/bin HOME=/root TERM=xterm

pipes() { # SESSION ID SCRIPT
  fifo=/run/stdin.$2
  mkfifo "$fifo"
  cat "/run/port/in$1" > "$fifo" 2>/dev/null &
  reader=$!
  (eval "$3") < "$fifo" > "/run/port/out$1" 2> "/run/port/err$1"
  status=$?
  kill "$reader" 2>/dev/null
  rm -f "$fifo"
  return "$status"
}

serve() { # ID KIND SCRIPT
  case $2 in
    quiet) (eval "$3") </dev/null >/dev/null 2>&1 ;;
    tty) SCRIPT=$3 setsid -c sh -c 'script=$SCRIPT; unset SCRIPT; eval "$script"' </dev/hvc0 >/dev/hvc0 2>&1 ;;
    *) pipes "$2" "$1" "$3" ;;
  esac
}

exec 3<>/run/port/control
echo ready >&3
while read -r id kind text <&3; do
  { serve "$id" "$kind" "$(echo "$text" | base64 -d)" 3>&-; echo "done $id $?" >&3; } &
done
poweroff -f
