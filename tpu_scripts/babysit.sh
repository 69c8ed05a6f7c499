#!/usr/bin/env bash
# Sees a job through: makes the slice, sets it up, runs the job, and does so again as often as the
# slice is taken away, until training ends.
#
#   babysit.sh NAME --zone ZONE --type TYPE [OPTION ...] -- --arch inception_v3 --workdir DIR ...
#
# Give a --workdir that outlives the slice, such as a folder of a mounted bucket: training resumes
# from it. A preempted job (exit code 42) is started again at once. A job that fails is started again
# after a pause, at most --max-failures times in a row; bad usage (exit code 2) ends it. Started
# again itself, this script finds the job where it is.
#
#   --max-failures N       default: 3; a job that ran for ten minutes starts the count anew
#   --max-losses N         how often in a row the slice or the job may be taken away before ten
#                          minutes have passed (default: 20)
#   --delete-at-end        delete the slice when training is done
#   --job, --logs, --mount, --allow-dirty             as for run.sh and setup.sh
#   --spot, --on-demand, --reserved, --runtime-version, --wait, --create-flag, --adopt, --internal-ip,
#   --zone, --project, --api                          as for create.sh
#
# With DRY_RUN=1 it prints the commands of gcloud for one undisturbed run, and runs none.
# Exit codes: 0 training is done, 1 given up, 2 bad usage.

# shellcheck source=tpu_scripts/lib.sh
source "$(dirname "$0")/lib.sh"

parse_options "--type --spot --on-demand --reserved --runtime-version --wait --create-flag --adopt --job --logs --mount --allow-dirty --max-failures --max-losses --delete-at-end --" "$@"
check_type
((${#ARGUMENTS[@]})) || usage "give the arguments of train/main.py after --"

# A run of this length was no false start.
HEALTHY_SECONDS=${HEALTHY_SECONDS:-600}
# How long some workers may go on when others have ended with an error.
STRAGGLER_SECONDS=${STRAGGLER_SECONDS:-300}

# Waits while the job runs; JOB_STATE then says how it ended.
watch_job() {
  local unreachable=0 pause=$POLL_SECONDS before='' uneven_since=''
  while :; do
    sleep "$pause"
    pause=$(longer "$pause")
    job_state
    if [[ $JOB_LINES && $JOB_LINES != "$before" ]]; then
      before=$JOB_LINES
      say "$JOB_LINES"
    fi
    uneven && uneven_since=${uneven_since:-$SECONDS} || uneven_since=''
    if [[ $uneven_since ]] && ((SECONDS - uneven_since > STRAGGLER_SECONDS)); then
      say "some workers have ended, others still run $STRAGGLER_SECONDS s later: stopping them"
      (stop_job) || true # if it cannot be stopped, starting it again fails, and is counted
      JOB_STATE=failed
      return
    fi
    if [[ $JOB_STATE == unreachable ]]; then
      look
      say "the workers of $NAME do not answer; it is $STATE"
      [[ $(kind) == UP ]] && ((++unreachable < TRIES)) || return 0
    elif [[ $JOB_STATE == running ]]; then
      unreachable=0
    else
      return 0
    fi
  done
}

# Counts what was taken away; gives up if that happens too often.
taken_away() { # MESSAGE
  ((++losses < MAX_LOSSES)) || fail "$1, $losses times in a row within $HEALTHY_SECONDS s: try later, another zone, or --on-demand"
  say "$1"
}

logs="see logs.sh $NAME --zone=$ZONE --job=$JOB"
failures=0 losses=0
check_commit
while :; do
  ensure_up
  began=$SECONDS
  if dry; then
    ship
    install
    start
    job_state
    [[ ! $DELETE_AT_END ]] || delete
    exit 0
  elif (ship && install && start); then
    watch_job
    say "the job $JOB is $JOB_STATE after $((SECONDS - began)) s"
  else
    JOB_STATE=failed
  fi
  ((SECONDS - began < HEALTHY_SECONDS)) || failures=0 losses=0
  case $JOB_STATE in
    done) break ;;
    usage) fail "train/main.py refuses its arguments: $logs" ;;
    preempted)
      taken_away "the job $JOB was preempted, and has saved"
      continue
      ;;
  esac
  look
  if [[ $(kind) != UP ]]; then
    taken_away "$NAME is $STATE: the job goes on when it is up again"
    continue
  fi
  ((++failures < MAX_FAILURES)) || fail "the job $JOB has failed $failures times in a row: $logs"
  sleep "$(awk -v s="$POLL_SECONDS" -v n="$failures" 'BEGIN { print s * 2 ^ n }')"
done
[[ ! $DELETE_AT_END ]] || delete
say "training is done"
