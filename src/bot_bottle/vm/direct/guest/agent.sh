# Takes commands from bottle, a line each, on a port named control; what belongs to one comes on a port named
# data, so that no value is on a command line or in a file:
#   run ID SESSION SIZE MARK    a process of the container: its document (OCI runtime spec, "process")
#   tty ID SESSION SIZE MARK    the same, on a terminal of its own
#   sh ID SESSION SIZE MARK     a script of the guest; SESSION is "-" for one without streams
#   signal ID SESSION SIGNAL    to a session's process and its children
#   size ID SESSION ROWS COLUMNS
#   cut ID SESSION              ends the output of a process that has exited and left others with its pipes
# and answers "ended ID STATUS" when it has exited, "done ID STATUS" when the session is free again.
# MARK follows the last byte of an output.
# A session has three ports, from the number 3 * SESSION on, and the first ones a terminal, /dev/hvcSESSION. When bottle goes away, the line ends and so does
# the guest.
sessions=8
crun='crun --root /run/crun --cgroup-manager=disabled'

last=$((3 * sessions + 2))
until set -- /dev/vport*p1 /dev/vport*p2 /dev/vport*p$last && [ -c "$1" ] && [ -c "$2" ] && [ -c "$3" ]; do
  usleep 1000
done
control=$1
commands=$2
port=${3%"$last"}
fifos=
n=1
while [ "$n" -le "$sessions" ]; do
  fifos="$fifos /run/in$n /run/out$n /run/err$n /run/document$n"
  n=$((n + 1))
done
mkfifo -m 600 $fifos

# A port has an end before bottle has connected to it, and may be opened once only, so a command gets pipes.
# The first line on a port says that bottle is there.
bottle_is_there() { until read -r line; do :; done; }

output() { cat; printf %s "$mark"; }

# Only exec closes a descriptor for good: for other redirections a shell keeps a copy to restore it.
# A shell opens a FIFO in vain when a child ends meanwhile (EINTR), so each is opened without waiting: both its
# ends are, while it is open for both.
streams() { # SESSION COMMAND...
  s=$1
  shift
  exec 9<>"/run/in$s" && exec 3<"/run/in$s" 4>"/run/in$s"
  exec 9<>"/run/out$s" && exec 6<"/run/out$s" 7>"/run/out$s"
  exec 9<>"/run/err$s" && exec 8<"/run/err$s" 9>"/run/err$s"
  {
    exec <"$port$((3 * s))" >&4 2>/dev/null 3<&- 4>&- 5>&- 6<&- 7>&- 8<&- 9>&-
    bottle_is_there
    exec cat
  } &
  in=$!
  {
    exec <&6 >"$port$((3 * s + 1))" 3<&- 4>&- 5>&- 6<&- 7>&- 8<&- 9>&-
    output
  } &
  out=$!
  {
    exec <&8 >"$port$((3 * s + 2))" 3<&- 4>&- 5>&- 6<&- 7>&- 8<&- 9>&-
    output
  } &
  err=$!
  echo "$out $err" >"/run/outputs$s"
  exec 4>&- 6<&- 8<&-
  "$@" <&3 >&7 2>&9 3<&- 5>&- 7>&- 9>&-
  status=$?
  exec 3<&- 7>&- 9>&-
  echo "ended $id $status" >&5
  kill "$in" 2>/dev/null
  wait "$in" "$out" "$err" 2>/dev/null
  return "$status"
}

# A terminal echoes while it is not raw, and what comes while nobody has it open is still there later. So what
# was typed for an earlier command is read first; a line with the second half of MARK says that input
# may come now.
terminal() { # SESSION
  {
    stty raw -echo min 0 time 0
    cat >/dev/null
    stty min 1
    echo "${mark#????????????????}"
    process "$1" -t
    status=$?
    printf %s "$mark"
    echo "ended $id $status" >&5
  } <"/dev/hvc$1" >"/dev/hvc$1" 2>&1
  return "$status"
}

# crun's own messages tell a command that was not started from one that failed
process() { # SESSION [-t]
  log=/run/log.$id
  printf %s "$data" >"/run/document$1" &
  $crun --log "$log" exec $2 --pid-file "/run/pid$1" --process "/run/document$1" bottle
  status=$?
  if [ -s "$log" ]; then
    read -r reason <"$log"
    case $reason in
      *'not found in $PATH'* | *'No such file or directory'*) status=127 ;;
      *) status=126 ;;
    esac
  fi
  return "$status"
}

evaluate() { eval "$data"; }

serve() { # KIND SESSION
  case $1$2 in
    run*) streams "$2" process "$2" ;;
    tty*) terminal "$2" ;;
    sh-) evaluate ;;
    sh*) streams "$2" evaluate ;;
  esac
}

started() { # SESSION: waits until its process has been started, unless it ends before
  until [ -s "/run/pid$1" ]; do
    [ -e "/run/busy$1" ] || return 1
    usleep 10000
  done
  pid=
  read -r pid <"/run/pid$1"  # it has no end of line, which read counts as an error
  [ -n "$pid" ]
}

# crun leaves a process in our own process group, so a signal goes to it and to all that it has started
family() { # PID: sets found
  found=$1
  descend "$1"
}

descend() { # PID
  local children= child
  read -r children <"/proc/$1/task/$1/children"
  for child in $children; do
    found="$found $child"
    descend "$child"
  done
}

exec 3<>"$control" 4<"$commands"
echo ready >&3
while read -r kind id session word more <&3; do
  case $kind in
    signal) { started "$session" && family "$pid" && kill "-$word" $found; } 3>&- 4<&- & ;;
    size) { started "$session" && stty -F "/proc/$pid/fd/0" rows "$word" cols "$more"; } 3>&- 4<&- & ;;
    cut) { read -r out err <"/run/outputs$session" && { pkill -P "$out" cat; pkill -P "$err" cat; }; } 3>&- 4<&- & ;;
    *)
      data=$(dd bs="$word" count=1 iflag=fullblock <&4 2>/dev/null)
      mark=$more
      : >"/run/busy$session"
      {
        serve "$kind" "$session"
        status=$?
        [ "$session" = - ] || rm -f "/run/pid$session" "/run/busy$session"
        echo "done $id $status" >&5
      } 5>&3 3>&- 4<&- &
      data=
      ;;
  esac
done
reboot -f
