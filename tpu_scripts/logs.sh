#!/usr/bin/env bash
# Shows the end of a job's log.
#
#   logs.sh NAME --zone ZONE [--job JOB] [--worker N|all] [--lines N] [--follow]
#
#   --job JOB              default: train
#   --worker N             which worker's, or all; default: 0, which reports for the run
#   --lines N              default: 50
#   --follow               go on as it grows
#   --internal-ip          reach the machines by their internal addresses
#   --zone, --project, --api   as for create.sh
#
# With DRY_RUN=1 it prints the command of gcloud and does not run it.
# Exit codes: those of gcloud; 2 for bad usage.

# shellcheck source=tpu_scripts/lib.sh
source "$(dirname "$0")/lib.sh"

parse_options "--job --worker --lines --follow" "$@"
[[ $FOLLOW ]] && seconds=0 || seconds=$GCLOUD_SECONDS
on_workers "$seconds" "${WORKER:-0}" "tail -n $TAIL ${FOLLOW:+-F }inception_jax/jobs/$JOB/log"
