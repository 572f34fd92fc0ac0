#!/usr/bin/env bash
# An engine on each GPU of this worker, and then its jobs. RunPod starts another worker where this
# one ends.
set -euo pipefail
exec 8< <(exec joycap serve --json "$@")
# The line comes once every engine has captioned a test picture.
read -r urls <&8 || exit 1
JOYCAP_BASE_URL="$(python3 -c 'import json, sys; print(*json.loads(sys.argv[1]))' "$urls")"
export JOYCAP_BASE_URL
exec python3 "$(dirname "$0")/handler.py"
