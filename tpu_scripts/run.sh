#!/usr/bin/env bash
# Ships the local commit and starts train/main.py on every worker of a slice, detached.
#
#   run.sh NAME --zone ZONE [OPTION ...] -- --arch inception_v3 --workdir /mnt/BUCKET/runs/v3 ...
#
# What stands after -- goes to train/main.py as it is. Training goes on when this machine is shut
# down; logs.sh and status.sh show it, stop.sh ends it. A job that runs already is left alone; one
# that has ended is started again, and with the same --workdir resumes.
#
#   --job JOB              name of the job on the workers (default: train)
#   --logs gs://B/FOLDER   copy each worker's log there, every minute and at the end
#   --allow-dirty          ship the commit although there are uncommitted changes
#   --internal-ip          reach the machines by their internal addresses
#   --zone, --project, --api   as for create.sh
#
# With DRY_RUN=1 it prints the commands of gcloud and runs none.
# Exit codes: 0 started on all workers, 1 not, 2 bad usage.

# shellcheck source=tpu_scripts/lib.sh
source "$(dirname "$0")/lib.sh"

parse_options "--job --logs --allow-dirty --" "$@"
((${#ARGUMENTS[@]})) || usage "give the arguments of train/main.py after --"
check_commit
require_up
ship
start
dry || say "the job $JOB is started on $NAME: logs.sh shows it, stop.sh ends it"
