#!/usr/bin/env bash
# Makes the keys and the password that compose.yaml needs, each once: what is there stays.
# secrets.sh [FOLDER]
set -euo pipefail
folder="${1:-$(dirname "$0")/secrets}"
# Containers of several users read the files, and nobody else gets through the folder.
umask 022
mkdir -p "$folder"
chmod 700 "$folder"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

keys="$folder/gateway-keys.txt"
if [ ! -s "$keys" ]; then
    metrics="$(random)"
    printf 'tools %s\nprometheus %s\n' "$(random)" "$metrics" >"$keys.new"
    printf '%s' "$metrics" >"$folder/gateway-metrics-key.txt"
    mv "$keys.new" "$keys"
    echo "made $keys: hand out the key of \`tools\`, and add a line for each further user" >&2
fi
password="$folder/grafana-password.txt"
if [ ! -s "$password" ]; then
    random >"$password"
    echo "made $password: Grafana's user is admin" >&2
fi
