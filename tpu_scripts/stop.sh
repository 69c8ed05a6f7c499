#!/usr/bin/env bash
# Stops a job on every worker: SIGTERM, on which training saves; SIGKILL if that is not enough.
#
#   stop.sh NAME --zone ZONE [--job JOB] [--grace SECONDS]
#
#   --job JOB              default: train
#   --grace SECONDS        from SIGTERM to SIGKILL (default: 120)
#   --internal-ip          reach the machines by their internal addresses
#   --zone, --project, --api   as for create.sh
#
# With DRY_RUN=1 it prints the command of gcloud and does not run it.
# Exit codes: 0 nothing of it runs any more, 1 not, 2 bad usage.

# shellcheck source=tpu_scripts/lib.sh
source "$(dirname "$0")/lib.sh"

parse_options "--job --grace" "$@"
stop_job
