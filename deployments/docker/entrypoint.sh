#!/bin/sh
# Run the command; a plain Prefect worker, as Prefect's Helm chart starts it, becomes one that drains when it is stopped.
set -eu
case "$*" in
"prefect worker start"*)
  shift 3
  set -- aae worker "$@"
  ;;
esac
exec "$@"
