#!/usr/bin/env bash
# Makes a TPU slice and waits until it is up.
#
#   create.sh NAME --zone ZONE --type TYPE [--spot | --on-demand | --reserved] [OPTION ...]
#
# A slice that is up or on its way is left as it is; one that is lost (suspended, failed, preempted)
# and was made by these scripts is deleted and made anew.
#
#   --type TYPE            accelerator type: v2-N, v3-N, v4-N, v5litepod-N, v5p-N, v6e-N
#   --spot                 cheaper, may be taken away at any time; --reserved: from a reservation;
#                          --on-demand: neither (default)
#   --api API              queued-resources (default), or tpu-vm, which has no queue
#   --runtime-version V    of the machines; default: what TYPE needs
#   --wait SECONDS         how long to wait for it (default 3600)
#   --create-flag=FLAG     a further flag for gcloud's create, such as --create-flag=--network=NAME;
#                          may be repeated
#   --internal-ip          machines without external addresses
#   --adopt                delete a lost slice of this name even if these scripts did not make it
#   --zone ZONE            or TPU_ZONE in the environment
#   --project PROJECT      or TPU_PROJECT; default: gcloud's own
#
# With DRY_RUN=1 in the environment it prints the commands of gcloud and runs none.
# Exit codes: 0 up, 1 not, 2 bad usage.

# shellcheck source=tpu_scripts/lib.sh
source "$(dirname "$0")/lib.sh"

parse_options "--type --spot --on-demand --reserved --runtime-version --wait --create-flag --adopt" "$@"
check_type
ensure_up
dry || say "$NAME is up"
