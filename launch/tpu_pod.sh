#!/usr/bin/env bash
# Runs mapo_jax on a Cloud TPU slice, of one host or many, through gcloud. See docs/scaling.md.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<'TEXT'
launch/tpu_pod.sh COMMAND [SETTING ...]

  create                     makes the slice
  install                    copies the last commit to every worker, installs it and JAX for TPUs
  run -- ARGUMENT ...        starts `python launch/run.py --distributed ARGUMENT ...` on every worker,
                             and again after a process of the run has died (launch/again.sh)
  stop                       makes the run save a checkpoint and end; the same `run` continues it
  logs                       follows the first worker's output; Ctrl-C does not stop the run
  fetch gs://WORKDIR DIR     copies the records of a run, without checkpoints, into DIR
  delete                     deletes the slice

  --name NAME        of the slice           or TPU_NAME
  --project PROJECT  of Google Cloud        or PROJECT_ID
  --zone ZONE        as in us-east5-b       or ZONE
  --type TYPE        as in v6e-16           or ACCELERATOR_TYPE (create only)
  --version VERSION  of the TPU's software  or RUNTIME_VERSION (create only; default: by type)
  --spot             cheaper, and taken away at any time (create only)
  --dry-run          prints every command and runs none
TEXT
}

mistakes=()

mistake() { mistakes+=("$1"); }

stop_if_mistaken() {
  ((${#mistakes[@]} == 0)) || {
    printf '%s\n' "${mistakes[@]}" >&2
    exit 2
  }
}

# Prints one word so that a shell reads it back, whatever is in it.
quote() {
  local LC_ALL=C mark="'\\''"
  if [[ $1 =~ ^[A-Za-z0-9_./:@%+,=-]+$ ]]; then
    printf '%s' "$1"
  else
    printf "'%s'" "${1//\'/$mark}"
  fi
}

quote_all() {
  local line='' word
  for word in "$@"; do line+=" $(quote "$word")"; done
  printf '%s' "${line# }"
}

# Runs a command, or prints it so that it can be pasted.
step() {
  if [[ $dry_run ]]; then
    printf '%s\n' "$(quote_all "$@")"
  else
    printf '+ %s\n' "$(quote_all "$@")" >&2
    "$@"
  fi
}

tpu() { # tpu VERB ARGUMENT ...
  step gcloud compute tpus tpu-vm "$@" "--project=$project" "--zone=$zone"
}

name=${TPU_NAME-} project=${PROJECT_ID-} zone=${ZONE-}
type=${ACCELERATOR_TYPE-} version=${RUNTIME_VERSION-}
dry_run='' spot='' words=()
while (($#)); do
  word=$1
  shift
  case $word in
    --) break ;;
    -h | --help)
      usage
      exit 0
      ;;
    --dry-run) dry_run=yes && continue ;;
    --spot) spot=yes && continue ;;
    --*=*) value=${word#*=} word=${word%%=*} ;;
    --*)
      value=${1-}
      shift $(($# > 0))
      ;;
    *) words+=("$word") && continue ;;
  esac
  case $word in
    --name) name=$value ;;
    --project) project=$value ;;
    --zone) zone=$value ;;
    --type) type=$value ;;
    --version) version=$value ;;
    *) mistake "$word: no such setting; see --help (what run.py takes comes after --)" ;;
  esac
done
command=${words[0]-}
rest=(${words[@]+"${words[@]:1}"}) # bash 3.2 has no empty arrays under set -u

case $command in
  create | install | run | stop | logs | delete)
    [[ $name ]] || mistake '--name: missing; give --name NAME or set TPU_NAME'
    [[ $project ]] || mistake '--project: missing; give --project PROJECT or set PROJECT_ID'
    [[ $zone ]] || mistake '--zone: missing; give --zone ZONE or set ZONE'
    ((${#rest[@]} == 0)) || mistake "${rest[0]}: what is it? $command takes settings only"
    ;;
  fetch)
    if ((${#rest[@]} != 2)) || [[ ${rest[0]} != gs://* ]]; then
      mistake 'fetch: give the work directory and where to copy it, as in gs://BUCKET/NAME DIR'
    fi
    ;;
  '') mistake 'COMMAND: missing; create, install, run, stop, logs, fetch or delete (see --help)' ;;
  *) mistake "$command: no such command; create, install, run, stop, logs, fetch or delete" ;;
esac

case $command in
  create)
    [[ $type ]] || mistake '--type: missing; give --type TYPE or set ACCELERATOR_TYPE'
    if [[ $type && ! $version ]]; then
      case $type in
        v6e-*) version=v2-alpha-tpuv6e ;;
        v5p-*) version=v2-alpha-tpuv5 ;;
        v5litepod-*) version=v2-alpha-tpuv5-lite ;;
        v2-* | v3-* | v4-*) version=tpu-ubuntu2204-base ;;
        *) mistake "--version: missing, and type $type has no default here; give --version VERSION" ;;
      esac
    fi
    stop_if_mistaken
    tpu create "$name" "--accelerator-type=$type" "--version=$version" ${spot:+--spot}
    ;;
  install)
    stop_if_mistaken
    if [[ $(git -C "$root" status --porcelain) ]]; then
      printf 'install: the last commit is copied, without the changes after it\n' >&2
    fi
    archive=${TMPDIR:-/tmp}/mapo_jax.tar.gz
    # The images have Python 3.10, which JAX no longer supports; uv brings its own.
    remote='rm -rf mapo_jax && mkdir mapo_jax && tar -xzf mapo_jax.tar.gz -C mapo_jax'
    remote+=' && cd mapo_jax && python3 -m pip install --quiet --user --upgrade uv'
    remote+=' && python3 -m uv venv --quiet --python 3.12 venv'
    remote+=' && python3 -m uv pip install --quiet --python venv'
    remote+=' -r requirements.txt "jax[tpu]" gcsfs'
    step git -C "$root" archive --format=tar.gz "--output=$archive" HEAD
    tpu scp "$archive" "$name:mapo_jax.tar.gz" --worker=all
    tpu ssh "$name" --worker=all "--command=$remote"
    ;;
  run)
    case " $* " in
      *' --workdir='* | *' --workdir '*) ;;
      *) mistake 'run: give -- ... --workdir gs://BUCKET/NAME (or a directory that all workers mount)' ;;
    esac
    stop_if_mistaken
    # The run is in the background, so that it outlives the connection. gcloud repeats a command if
    # its connection broke; the lock, which the run keeps open, prevents a second start.
    remote='cd mapo_jax && exec 9>run.lock && { flock --nonblock 9 || { echo a run is going on;'
    remote+=' exit 1; }; } && { nohup bash launch/again.sh venv/bin/python launch/run.py --distributed '
    remote+="$(quote_all "$@") >run.log 2>&1 </dev/null & }"
    tpu ssh "$name" --worker=all "--command=$remote"
    ;;
  stop)
    stop_if_mistaken
    # Stops Python and the script that would start it again. The brackets keep this command from
    # finding itself.
    pattern='^(bash launch/again[.]sh|venv/bin/python launch/run[.]py)'
    tpu ssh "$name" --worker=all "--command=pkill -TERM -f '$pattern'"
    ;;
  logs)
    stop_if_mistaken
    tpu ssh "$name" --worker=0 '--command=tail -n 100 -F mapo_jax/run.log'
    ;;
  fetch)
    stop_if_mistaken
    step mkdir -p "${rest[1]}"
    step gcloud storage rsync --recursive '--exclude=checkpoints/.*' "${rest[@]}"
    ;;
  delete)
    stop_if_mistaken
    tpu delete "$name"
    ;;
  *) stop_if_mistaken ;;
esac
