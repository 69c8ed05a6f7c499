#!/usr/bin/env bash
# Deletes a slice that create.sh or babysit.sh made, with all that is on its machines.
#
#   delete.sh NAME --zone ZONE [--yes] [--adopt]
#
#   --yes                  do not ask
#   --adopt                also if these scripts did not make it
#   --wait SECONDS         how long to wait until it is gone (default 3600)
#   --zone, --project, --api   as for create.sh
#
# With DRY_RUN=1 it prints the commands of gcloud and runs none.
# Exit codes: 0 gone, 1 not, 2 bad usage.

# shellcheck source=tpu_scripts/lib.sh
source "$(dirname "$0")/lib.sh"

parse_options "--yes --adopt --wait" "$@"
look
if ! dry; then
  if [[ $STATE == ABSENT ]]; then
    say "there is no $NAME"
    rm -f "$(record)"
    exit 0
  fi
  [[ $OWN || $ADOPT ]] || fail "$NAME ($STATE) was not made by these scripts: give --adopt to delete it all the same"
  if [[ ! $YES ]]; then
    [[ -t 0 ]] || fail "delete $NAME ($STATE)? There is no terminal to ask at: give --yes"
    read -r -p "Delete $NAME ($STATE) and all that is on its machines? [y/N] " answer
    [[ $answer == [yY]* ]] || fail "$NAME is left as it is"
  fi
fi
delete
dry || say "$NAME is gone"
