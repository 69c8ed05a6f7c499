#!/usr/bin/env bash
# Ships the local commit to every worker of a slice, and installs what it needs there.
#
#   setup.sh NAME --zone ZONE [OPTION ...]
#
# Installs uv, Python 3.12 (the machines' own is older) and the package's extras "train" and "tpu"
# into ~/inception_jax/venv. May be repeated; what is there is kept.
#
#   --mount BUCKET         mount a Cloud Storage bucket at /mnt/BUCKET with gcsfuse, for --workdir and
#                          --data-dir, which all workers must see
#   --allow-dirty          ship the commit although there are uncommitted changes
#   --internal-ip          reach the machines by their internal addresses
#   --zone, --project, --api   as for create.sh
#
# With DRY_RUN=1 it prints the commands of gcloud and runs none.
# Exit codes: 0 done, 1 not, 2 bad usage.

# shellcheck source=tpu_scripts/lib.sh
source "$(dirname "$0")/lib.sh"

parse_options "--mount --allow-dirty" "$@"
check_commit
require_up
ship
install
