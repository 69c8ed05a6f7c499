# shellcheck shell=bash disable=SC2034  # the scripts read what is set here
# What the scripts beside this file share: options, gcloud, the state of a slice. Sourced, not run.

set -euo pipefail

if ((BASH_VERSINFO[0] < 5)) || ! command -v timeout >/dev/null; then
  echo "error: bash 5 and GNU timeout are needed (on macOS: brew install bash coreutils)" >&2
  exit 2
fi

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPOSITORY=$(dirname "$HERE")
RECORDS=${XDG_STATE_HOME:-$HOME/.local/state}/inception-jax

# Seconds. A first poll, the longest pause between two, and what one call of gcloud may take.
POLL_SECONDS=${POLL_SECONDS:-5}
MAX_POLL_SECONDS=${MAX_POLL_SECONDS:-60}
GCLOUD_SECONDS=${GCLOUD_SECONDS:-300}
SETUP_SECONDS=${SETUP_SECONDS:-1800}
TRIES=5

SAID=$(mktemp) # what gcloud last said on standard error
trap 'rm -f "$SAID"' EXIT

# ---- What is said ----

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2; }

fail() { # MESSAGE [EXIT CODE]
  printf 'error: %s\n' "$1" >&2
  exit "${2:-1}"
}

usage() { # MESSAGE
  fail "$1 (see $(basename "$0") --help)" 2
}

show_help() { # The comment at the head of a script is its help.
  awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
  exit 0
}

dry() { [[ ${DRY_RUN:-} == 1 ]]; }

# ---- Options ----

NAME='' ZONE=${TPU_ZONE:-} PROJECT=${TPU_PROJECT:-} API=queued-resources
TYPE='' PROVISIONING='' RUNTIME_VERSION='' WAIT_SECONDS=3600 CREATE_FLAGS=()
JOB=train LOGS='' ALLOW_DIRTY='' INTERNAL_IP='' MOUNT='' ARGUMENTS=()
WORKER='' TAIL=50 FOLLOW='' GRACE=120 YES='' ADOPT='' MAX_FAILURES=3 MAX_LOSSES=20 DELETE_AT_END=''

# parse_options ACCEPTED ARGUMENT...: sets the variables above. ACCEPTED lists, between spaces, the
# options that this script has beside NAME, --zone, --project, --api and --internal-ip; "--" stands
# for arguments that are handed on.
parse_options() {
  local accepted=" --zone --project --api --internal-ip $1 " option value
  shift
  while (($#)); do
    option=${1%%=*}
    case $1 in
      -h | --help) show_help ;;
      --)
        [[ $accepted == *" -- "* ]] || usage "nothing goes after --"
        ARGUMENTS=("${@:2}")
        break
        ;;
      --*) [[ $accepted == *" $option "* ]] || usage "unknown option $option" ;;
      *)
        [[ -z $NAME ]] || usage "one slice at a time: $NAME or $1?"
        NAME=$1
        shift
        continue
        ;;
    esac
    case $option in
      --spot | --on-demand | --reserved)
        [[ -z $PROVISIONING ]] || usage "$option and $PROVISIONING exclude each other"
        PROVISIONING=$option
        ;;
      --internal-ip) INTERNAL_IP=1 ;;
      --allow-dirty) ALLOW_DIRTY=1 ;;
      --follow) FOLLOW=1 ;;
      --yes) YES=1 ;;
      --adopt) ADOPT=1 ;;
      --delete-at-end) DELETE_AT_END=1 ;;
      *)
        if [[ $1 == *=* ]]; then
          value=${1#*=}
        else
          (($# > 1)) || usage "$option needs a value"
          value=$2
          shift
        fi
        [[ -n $value ]] || usage "$option needs a value"
        set_option "$option" "$value"
        shift
        continue
        ;;
    esac
    [[ $1 != *=* ]] || usage "$option takes no value"
    shift
  done
  check_target
}

set_option() { # OPTION VALUE
  case $1 in
    --zone) ZONE=$2 ;;
    --project) PROJECT=$2 ;;
    --api) API=$2 ;;
    --type) TYPE=$2 ;;
    --runtime-version) check "$1" "$2" '[a-z0-9][a-z0-9.-]*' && RUNTIME_VERSION=$2 ;;
    --wait) check "$1" "$2" '[0-9]{1,7}' 'seconds' && WAIT_SECONDS=$2 ;;
    --create-flag)
      check "$1" "$2" '--[a-z-]+(=.*)?' 'a flag of gcloud, such as --network=NAME' && CREATE_FLAGS+=("$2")
      ;;
    --job) check "$1" "$2" '[A-Za-z0-9][A-Za-z0-9_.-]{0,62}' && JOB=$2 ;;
    --logs) check_bucket "$1" "$2" && LOGS=${2%/} ;;
    --mount) check "$1" "$2" '[a-z0-9][a-z0-9_.-]{1,61}[a-z0-9]' 'a bucket, without gs://' && MOUNT=$2 ;;
    --worker) check "$1" "$2" '[0-9]{1,4}|all' && WORKER=$2 ;;
    --lines) check "$1" "$2" '[0-9]{1,7}' && TAIL=$2 ;;
    --grace) check "$1" "$2" '[0-9]{1,6}' 'seconds' && GRACE=$2 ;;
    --max-failures) check "$1" "$2" '[0-9]{1,4}' && MAX_FAILURES=$2 ;;
    --max-losses) check "$1" "$2" '[0-9]{1,6}' && MAX_LOSSES=$2 ;;
    *) usage "unknown option $1" ;;
  esac
}

check() { # OPTION VALUE PATTERN [MEANING]
  [[ $2 =~ ^($3)$ ]] || usage "$1 ${2@Q}: must be ${4:-of the form $3}"
}

check_bucket() { # OPTION URL
  check "$1" "$2" 'gs://[a-z0-9][a-z0-9_.-]{1,61}[a-z0-9](/[A-Za-z0-9_.=-]+)*/?' 'gs://BUCKET/FOLDER, in letters, digits and _ . = -'
}

check_target() {
  [[ -n $NAME ]] || usage "name the slice"
  check NAME "$NAME" '[a-z]([a-z0-9-]{0,61}[a-z0-9])?' 'lower-case letters, digits and dashes, starting with a letter'
  [[ -n $ZONE ]] || usage "--zone ZONE is needed, or TPU_ZONE in the environment"
  check --zone "$ZONE" '[a-z]+(-[a-z]+)+[0-9]+-[a-z]' 'a zone such as us-central1-a'
  [[ -z $PROJECT ]] || check --project "$PROJECT" '([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]' 'a project id'
  check --api "$API" 'queued-resources|tpu-vm'
  WHERE=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})
}

check_type() {
  [[ -n $TYPE ]] || usage "--type TYPE is needed, an accelerator type such as v5litepod-16"
  case $TYPE in
    tpu7x* | v7x*) usage "--type $TYPE: the Cloud TPU API does not serve TPU7x: use Compute Engine or GKE, see tpu_scripts/README.md" ;;
    v5e-*) usage "--type $TYPE: gcloud calls it v5litepod-${TYPE#v5e-}" ;;
  esac
  check --type "$TYPE" 'v(2|3|4|5p|5litepod|6e)-[1-9][0-9]*' 'v2-N, v3-N, v4-N, v5litepod-N, v5p-N or v6e-N'
}

# The runtime version that a generation of TPUs needs (cloud.google.com/tpu/docs/runtimes).
runtime_version() {
  case $TYPE in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

# ---- gcloud ----

quoted() { # WORD...: one line that a shell takes for these words
  local word line=''
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  printf '%s\n' "${line# }"
}

# gcloud_tpu SECONDS WORD...: runs `gcloud compute tpus WORD...`, or with DRY_RUN=1 prints it.
# SECONDS is what it may take; 0 is without limit.
gcloud_tpu() {
  local seconds=$1
  shift
  if dry; then
    quoted gcloud compute tpus "$@"
    return
  fi
  local status=0
  timeout --foreground --kill-after=10 "$seconds" gcloud compute tpus "$@" </dev/null || status=$?
  ((status != 124)) || say "gcloud compute tpus $1 $2: no answer within $seconds s"
  return "$status"
}

# retry SECONDS WORD...: as gcloud_tpu, several times with growing pauses, unless trying is in vain.
retry() {
  local try pause=$POLL_SECONDS
  for ((try = 1; ; try++)); do
    if gcloud_tpu "$@" 2>"$SAID"; then
      cat "$SAID" >&2
      return 0
    fi
    cat "$SAID" >&2
    if in_vain || ((try == TRIES)); then
      return 1
    fi
    say "try $try of $TRIES failed; again in $pause s"
    sleep "$pause"
    pause=$(longer "$pause")
  done
}

# Whether what gcloud said is something that no second try will change.
in_vain() {
  grep -qE 'PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT|[Qq]uota|gcloud auth login|unrecognized arguments|Invalid value' "$SAID"
}

# Whether gcloud said that there is no such slice.
not_there() { grep -qiE 'NOT_FOUND|not found|does not exist' "$SAID"; }

longer() { # SECONDS: the next pause, half as long again
  awk -v s="$1" -v most="$MAX_POLL_SECONDS" 'BEGIN { s *= 1.5; print (s > most) ? most : s }'
}

# ---- The state of a slice ----

STATE='' OWN=''

# Sets STATE to what the cloud says, ABSENT if there is no such slice; OWN if these scripts made it.
look() {
  local try out pause=$POLL_SECONDS state=state label=labels.inception_jax
  if [[ $API == queued-resources ]]; then
    state=state.state label='tpu.nodeSpec[0].node.labels.inception_jax'
  fi
  local query=("$API" describe "$NAME" "${WHERE[@]}" "--format=value($state,$label)")
  if dry; then
    gcloud_tpu 0 "${query[@]}"
    return
  fi
  for ((try = 1; ; try++)); do
    if out=$(gcloud_tpu "$GCLOUD_SECONDS" "${query[@]}" 2>"$SAID"); then
      read -r STATE OWN <<<"$out" || true
      [[ $OWN == created || -e $(record) ]] && OWN=1 || OWN=''
      [[ $(kind) == UNKNOWN ]] || return 0
      say "gcloud describes $NAME as ${out@Q}, which is no state of a slice"
    elif not_there; then
      STATE=ABSENT OWN=''
      return
    else
      cat "$SAID" >&2
    fi
    if in_vain || ((try == TRIES)); then
      fail "the state of $NAME cannot be read"
    fi
    sleep "$pause"
    pause=$(longer "$pause")
  done
}

kind() { # what a state means
  case $STATE in
    ABSENT) echo ABSENT ;;
    ACTIVE | READY) echo UP ;;
    SUSPENDED | FAILED | PREEMPTED | TERMINATED | STOPPED) echo LOST ;;
    ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING | CREATING) echo PENDING ;;
    STARTING | RESTARTING | REPAIRING | REIMAGING | UNHIDING) echo PENDING ;;
    SUSPENDING | DELETING | STOPPING | HIDING | HIDDEN) echo PENDING ;;
    *) echo UNKNOWN ;;
  esac
}

# Where it is written down that these scripts made the slice.
record() { echo "$RECORDS/slices/${PROJECT:-default}.$ZONE.$NAME"; }

require_up() {
  look
  dry || [[ $(kind) == UP ]] || fail "$NAME is $STATE: create.sh makes it"
}

# Waits until the slice is up; makes it if there is none, and anew if it is lost.
ensure_up() {
  local end=$((SECONDS + WAIT_SECONDS)) pause=$POLL_SECONDS before='' creations=0
  if dry; then
    look
    create
    look
    return
  fi
  while :; do
    look
    if [[ $STATE != "$before" ]]; then
      say "$NAME: $STATE"
      before=$STATE pause=$POLL_SECONDS
    fi
    case $(kind) in
      UP) return ;;
      LOST) # it will not come back by itself
        [[ $OWN || $ADOPT ]] || fail "$NAME is $STATE, and these scripts did not make it: delete it yourself, or give --adopt"
        delete
        continue
        ;;
      ABSENT)
        ((creations < TRIES)) || fail "$NAME was made $TRIES times, and is not there"
        create
        ((creations++)) || true
        ;;
    esac
    ((SECONDS < end)) || fail "$NAME is still $STATE after $WAIT_SECONDS s: the same command goes on waiting, delete.sh gives up"
    sleep "$pause"
    pause=$(longer "$pause")
  done
}

create() {
  local words=(queued-resources create "$NAME" "--node-id=$NAME" "${WHERE[@]}" "--accelerator-type=$TYPE" "--runtime-version=${RUNTIME_VERSION:-$(runtime_version)}")
  if [[ $API == tpu-vm ]]; then
    words=(tpu-vm create "$NAME" "${WHERE[@]}" "--accelerator-type=$TYPE" "--version=${RUNTIME_VERSION:-$(runtime_version)}")
  fi
  [[ ${PROVISIONING:---on-demand} == --on-demand ]] || words+=("$PROVISIONING")
  words+=(${INTERNAL_IP:+--internal-ips} ${CREATE_FLAGS[@]+"${CREATE_FLAGS[@]}"} --labels=inception_jax=created --async)
  if dry; then
    gcloud_tpu 0 "${words[@]}"
    return
  fi
  mkdir -p "$RECORDS/slices"
  printf '%s %s\n' "$TYPE" "$(date -u +%FT%TZ)" >"$(record)"
  if ! retry "$GCLOUD_SECONDS" "${words[@]}"; then
    grep -q ALREADY_EXISTS "$SAID" || rm -f "$(record)"
    look
    [[ $STATE != ABSENT ]] || fail "$NAME cannot be made"
  fi
}

# Deletes the slice, and returns when it is gone.
delete() {
  local end=$((SECONDS + WAIT_SECONDS)) pause=$POLL_SECONDS words=(--quiet --async)
  [[ $API != queued-resources ]] || words+=(--force) # with its machines
  say "deleting $NAME"
  retry "$GCLOUD_SECONDS" "$API" delete "$NAME" "${WHERE[@]}" "${words[@]}" || not_there || fail "$NAME cannot be deleted"
  dry && return
  while :; do
    look
    [[ $STATE != ABSENT ]] || break
    ((SECONDS < end)) || fail "$NAME is still $STATE $WAIT_SECONDS s after its deletion was asked for"
    sleep "$pause"
    pause=$(longer "$pause")
  done
  rm -f "$(record)"
}

# ---- Code and jobs on the workers ----

COMMIT=''

# Sets COMMIT to what would be shipped; refuses changes that would not.
check_commit() {
  local changes
  COMMIT=$(git -C "$REPOSITORY" rev-parse --verify HEAD) || fail "$REPOSITORY is no git checkout"
  changes=$(git -C "$REPOSITORY" status --porcelain)
  [[ $changes ]] || return 0
  [[ $ALLOW_DIRTY ]] || fail "uncommitted changes would not be shipped: commit them, or give --allow-dirty to ship ${COMMIT:0:12} as it is"
  say "uncommitted changes are not shipped"
}

# Copies the commit to every worker, as inception_jax/COMMIT in the home folder.
ship() {
  local archive=inception_jax-$COMMIT.tar.gz folder
  folder=$(mktemp -d) || fail "no temporary folder"
  if dry; then
    quoted git archive --format=tar.gz "--output=$archive" "$COMMIT"
  else
    say "shipping ${COMMIT:0:12} to $NAME"
    git -C "$REPOSITORY" archive --format=tar.gz "--output=$folder/$archive" "$COMMIT" || fail "no archive of $COMMIT"
  fi
  (
    cd "$folder" && retry "$SETUP_SECONDS" tpu-vm scp "$archive" "$NAME:$archive" "${WHERE[@]}" ${INTERNAL_IP:+--internal-ip} --worker=all --strict-host-key-checking=no
  ) || fail "the code cannot be copied to $NAME"
  rm -rf "$folder"
  retry_on_workers "$GCLOUD_SECONDS" "mkdir -p inception_jax/$COMMIT && tar -xzf $archive -C inception_jax/$COMMIT && rm $archive && ln -sfn $COMMIT inception_jax/current" || fail "the code cannot be unpacked on $NAME"
}

install() { # what the code needs, on every worker
  say "installing on $NAME"
  retry_on_workers "$SETUP_SECONDS" "$(worker install ${MOUNT:+"$MOUNT"})" || fail "$NAME cannot be set up"
}

start() { # the job, on every worker
  retry_on_workers "$GCLOUD_SECONDS" "$(worker start "$JOB" "${LOGS:--}" "${ARGUMENTS[@]}")" || fail "the job $JOB cannot be started on $NAME"
}

worker() { # WORD...: the command that does it on a worker, with the code that is there
  quoted bash "inception_jax/${COMMIT:-current}/tpu_scripts/worker.sh" "$@"
}

on_workers() { # SECONDS WORKER COMMAND
  gcloud_tpu "$1" tpu-vm ssh "$NAME" "${WHERE[@]}" ${INTERNAL_IP:+--internal-ip} "--worker=$2" --strict-host-key-checking=no "--command=$3"
}

retry_on_workers() { # SECONDS COMMAND
  retry "$1" tpu-vm ssh "$NAME" "${WHERE[@]}" ${INTERNAL_IP:+--internal-ip} --worker=all --strict-host-key-checking=no "--command=$2"
}

# What a whole job can be, and what status.sh returns for it.
declare -A JOB_CODES=([done]=0 [failed]=1 [usage]=1 [running]=3 [idle]=4 [unreachable]=5 [down]=6 [preempted]=42)
JOB_STATE='' JOB_LINES=''

# Asks every worker; sets JOB_STATE, and JOB_LINES to what each says.
job_state() {
  local said command
  command="if test -e inception_jax/current; then $(COMMIT='' worker status "$JOB"); else echo worker=\$(hostname) state=idle; fi"
  if dry; then
    on_workers 0 all "$command"
    return
  fi
  if ! said=$(on_workers "$GCLOUD_SECONDS" all "$command"); then
    JOB_STATE=unreachable JOB_LINES=''
    return
  fi
  # Only the workers' own lines count: ssh and the machines say things too.
  JOB_LINES=$(grep -E '^worker=[^ ]+ state=(running|killed|idle|exited code=[0-9]+)( |$)' <<<"$said" | sort -V || true)
  JOB_STATE=$(summary)
}

summary() { # of JOB_LINES
  case "$JOB_LINES " in
    ' ') echo unreachable ;;
    *' state=running'*) echo running ;;
    *' code=42'[!0-9]*) echo preempted ;;
    *' code=2'[!0-9]*) echo usage ;;
    *' state=killed'*) echo failed ;;
    *' code='[1-9]*) echo failed ;;
    *' code=0'*' state=idle'* | *' state=idle'*' code=0'*) echo failed ;;
    *' code=0'*) echo 'done' ;;
    *) echo idle ;;
  esac
}

# Whether some workers have ended while others run, which they do not for long if all is well.
uneven() { [[ $JOB_STATE == running && $JOB_LINES =~ state=(exited|killed|idle) ]]; }

stop_job() {
  retry_on_workers "$((GRACE + GCLOUD_SECONDS))" "test ! -e inception_jax/current || $(COMMIT='' worker stop "$JOB" "$GRACE")" || fail "the job $JOB cannot be stopped on $NAME"
}
