#!/usr/bin/env bash
# Runs a command again after a process of its run has died: launch/again.sh COMMAND ARGUMENT ...
#
# When a process is killed, the others end with exit code 134. Started again, all of them go on from
# the newest checkpoint. A command is not repeated after exit codes 0 (done), 2 (a mistake), 3 (the
# run's own guard), 130 and 143 (it was told to end). The script waits PAUSE (15) seconds before each
# new start. It gives up after RESTARTS (10) new starts in a row; a command that lived for ten minutes
# begins a new row.
set -uo pipefail

most=${RESTARTS-10} pause=${PAUSE-15} restarts=0 stopped=''
trap 'stopped=yes' TERM # the command is not started again, whether it got the signal or not

while true; do
  SECONDS=0
  "$@"
  code=$?
  case $code in
    0 | 2 | 3 | 130 | 143) exit "$code" ;;
  esac
  ((SECONDS < 600)) || restarts=0
  if [[ $stopped ]] || ((restarts >= most)); then
    exit "$code"
  fi
  restarts=$((restarts + 1))
  printf '%s ended by exit code %d; starts again in %d s (%d of %d)\n' \
    "$(date -u +%FT%TZ)" "$code" "$pause" "$restarts" "$most" >&2
  sleep "$pause" &
  wait $! # a signal ends this wait at once
  if [[ $stopped ]]; then
    kill $!
    exit "$code"
  fi
done
