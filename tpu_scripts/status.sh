#!/usr/bin/env bash
# Says how a slice is, and a job on each of its workers.
#
#   status.sh NAME --zone ZONE [--job JOB]
#
# The last line of its output is one word on the whole job, which the exit code repeats:
#
#   done       0    every worker ended with exit code 0
#   failed     1    a worker ended with an error, or was killed
#   usage      1    train/main.py refused its arguments
#   running    3    at least one worker is at it
#   idle       4    the job was not started
#   unreachable 5   the slice is up, but its workers do not answer
#   down       6    the slice is not up
#   preempted  42   stopped by SIGTERM, and saved; the same run.sh resumes
#
#   --job JOB              default: train
#   --internal-ip          reach the machines by their internal addresses
#   --zone, --project, --api   as for create.sh
#
# With DRY_RUN=1 it prints the commands of gcloud and runs none. Exit code 2: bad usage.

# shellcheck source=tpu_scripts/lib.sh
source "$(dirname "$0")/lib.sh"

parse_options "--job" "$@"
look
if dry; then
  job_state
  exit 0
fi
say "$NAME is $STATE"
if [[ $(kind) == UP ]]; then
  job_state
  [[ ! $JOB_LINES ]] || echo "$JOB_LINES"
else
  JOB_STATE=down
fi
echo "$JOB_STATE"
exit "${JOB_CODES[$JOB_STATE]}"
