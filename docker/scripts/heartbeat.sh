#!/bin/sh
# Whether a worker has touched its file of late: a probe of containers that have no port to ask.
#   homescope pipeline work --heartbeat /tmp/heartbeat
#   heartbeat /tmp/heartbeat 60
set -eu
file=${1:?name the file that the worker touches, like /tmp/heartbeat}
seconds=${2:?say how old the file may be, in seconds}
touched=$(stat -c %Y "$file" 2>/dev/null) || {
    echo "heartbeat: there is no $file: the worker has not reached its broker yet" >&2
    exit 1
}
age=$(($(date +%s) - touched))
[ "$age" -le "$seconds" ] || {
    echo "heartbeat: $file is $age s old: the worker hangs, or its broker or database does not answer; its log says which" >&2
    exit 1
}
