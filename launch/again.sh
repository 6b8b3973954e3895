#!/usr/bin/env bash
# Runs a command again when a process of its run has died: launch/again.sh COMMAND ARGUMENT ...
#
# A process that is killed ends the others by exit code 134; started again, all of them go on from
# the newest checkpoint. What ended by itself is not repeated: 0 (done), 2 (a mistake), 3 (the run's
# own guard), 130 and 143 (told to). RESTARTS (10) is how often in a row it may fail within ten
# minutes of its start, PAUSE (15) the seconds in between.
set -uo pipefail

most=${RESTARTS-10} pause=${PAUSE-15} restarts=0 stopped=''
trap 'stopped=yes' TERM # whether the command got it too or not: it is not started again

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
  wait $! # which a signal ends at once
  if [[ $stopped ]]; then
    kill $!
    exit "$code"
  fi
done
