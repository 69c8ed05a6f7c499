#!/usr/bin/env bash
# What the other scripts do on a worker of a slice; it lies there with the code that was shipped.
#
#   worker.sh install [BUCKET]            uv, Python 3.12, the extras "train" and "tpu"; mounts BUCKET
#   worker.sh start JOB LOGS ARGUMENT...  train/main.py ARGUMENT..., detached; LOGS: gs://..., or -
#   worker.sh status JOB                  one line: worker=NAME state=running|exited|killed|idle ...
#   worker.sh stop JOB GRACE              SIGTERM, and SIGKILL after GRACE seconds
#
# In ~/inception_jax: venv/, jobs/JOB/{log,pid,exit,arguments}, and a folder for every commit.

set -euo pipefail

CODE=$(cd "$(dirname "$0")/.." && pwd -P)
HOME_FOLDER=$HOME/inception_jax
PYTHON=$HOME_FOLDER/venv/bin/python
UPLOAD_SECONDS=${UPLOAD_SECONDS:-60}

fail() {
  printf 'error: %s: %s\n' "$(hostname)" "$1" >&2
  exit 1
}

install() {
  local bucket=${1:-} wanted
  export PATH=$HOME/.local/bin:$PATH
  wanted=$(sha256sum <"$CODE/pyproject.toml")
  if [[ $(cat "$HOME_FOLDER/venv/installed" 2>/dev/null) != "$wanted" ]]; then
    command -v uv >/dev/null || python3 -m pip install --quiet --user uv ||
      curl -LsSf https://astral.sh/uv/install.sh | sh
    [[ -x $PYTHON ]] || uv venv --quiet --python 3.12 "$HOME_FOLDER/venv"
    uv pip install --quiet --python "$PYTHON" -e "${CODE}[train,tpu]"
    printf '%s\n' "$wanted" >"$HOME_FOLDER/venv/installed"
  fi
  [[ -z $bucket ]] || mount_bucket "$bucket"
  echo "$(hostname): ready"
}

mount_bucket() {
  local folder=/mnt/$1
  ! mountpoint -q "$folder" || return 0
  command -v gcsfuse >/dev/null || fail "gcsfuse is not installed: cloud.google.com/storage/docs/cloud-storage-fuse/install"
  sudo mkdir -p "$folder"
  sudo chown "$(id -u)" "$folder"
  # Orbax renames the folder of a finished checkpoint, which gcsfuse refuses without a limit.
  gcsfuse --implicit-dirs --rename-dir-limit=1000000 "$1" "$folder"
}

start() {
  local folder=$HOME_FOLDER/jobs/$1 logs=$2
  shift 2
  [[ -x $PYTHON ]] || fail "nothing is installed here: setup.sh does it"
  mkdir -p "$folder"
  if running "$folder"; then
    [[ $(cat "$folder/arguments") == "${*@Q}" ]] || fail "the job runs with other arguments ($(cat "$folder/arguments")): stop.sh ends it"
    echo "$(hostname): it runs already"
    return
  fi
  rm -f "$folder/exit" "$folder/pid"
  printf '%s\n' "${*@Q}" >"$folder/arguments"
  # A session of its own outlives the connection that starts it.
  setsid nohup bash "$0" supervise "$folder" "$logs" "$@" </dev/null >>"$folder/log" 2>&1 &
  for ((i = 0; i < 100; i++)); do
    if [[ -e $folder/exit ]] || running "$folder"; then break; fi
    sleep 0.1
  done
  [[ -s $folder/pid ]] || fail "the job did not start: $(tail -n 3 "$folder/log")"
  echo "$(hostname): started as process $(cat "$folder/pid")"
}

# Runs the job, and writes down how it ended, whatever becomes of who started it.
supervise() {
  local folder=$1 logs=$2 code interrupted uploads=''
  shift 2
  echo "== $(date -u +%FT%TZ) ${CODE##*/}: train/main.py ${*@Q}"
  cd "$CODE"
  "$PYTHON" -u train/main.py "$@" &
  local pid=$!
  echo "$pid" >"$folder/pid"
  if [[ $logs != - ]]; then
    while sleep "$UPLOAD_SECONDS"; do upload "$folder" "$logs"; done &
    uploads=$!
  fi
  # A machine that is taken away sends SIGTERM to all: the job saves, and this waits for it.
  trap 'interrupted=1' TERM
  while
    interrupted='' code=0
    wait "$pid" || code=$?
    [[ $interrupted ]]
  do :; done
  echo "== $(date -u +%FT%TZ) exit code $code"
  echo "$code" >"$folder/exit.part"
  mv "$folder/exit.part" "$folder/exit"
  [[ ! $uploads ]] || kill "$uploads"
  [[ $logs == - ]] || upload "$folder" "$logs"
}

upload() { # FOLDER LOGS
  gcloud storage cp --quiet "$1/log" "$2/${1##*/}/$(hostname).log" >/dev/null 2>"$1/upload" ||
    echo "the log cannot be copied: $(tail -n 1 "$1/upload")"
}

running() { # FOLDER; another process may have got a lost one's number
  local pid
  pid=$(cat "$1/pid" 2>/dev/null) && grep -aqs 'train/main\.py' "/proc/$pid/cmdline"
}

status() {
  local folder=$HOME_FOLDER/jobs/$1 state=idle
  if running "$folder"; then
    state="running pid=$(cat "$folder/pid")"
  elif [[ -e $folder/exit ]]; then
    state="exited code=$(cat "$folder/exit")"
  elif [[ -e $folder/pid ]]; then
    state=killed
  fi
  echo "worker=$(hostname) state=$state"
}

stop() {
  local folder=$HOME_FOLDER/jobs/$1 end=$((SECONDS + $2)) pid
  if running "$folder"; then
    pid=$(cat "$folder/pid")
    kill -TERM "$pid"
    while running "$folder" && ((SECONDS < end)); do sleep 0.5; done
    if running "$folder"; then
      echo "$(hostname): still there after $2 s: killed"
      kill -KILL "$pid"
      while running "$folder"; do sleep 0.1; done
    fi
    for ((i = 0; i < 50; i++)); do # the exit code follows
      [[ ! -e $folder/exit ]] || break
      sleep 0.1
    done
  fi
  status "$1"
}

case ${1:-} in
  install | start | status | stop | supervise) "$@" ;;
  *)
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit 2
    ;;
esac
