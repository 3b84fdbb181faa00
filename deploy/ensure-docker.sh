#!/usr/bin/env bash
# Sees to a running Docker engine and docker-compose. As root it installs what is missing with
# apt, and starts the engine by hand where no init system does; else it says what to do.
# In a plain virtual machine without systemd the engine needs no flags: overlay2, its own
# bridge and iptables rules all work with the defaults.
set -euo pipefail

log=/var/log/magnetar-dockerd.log
start_limit_s=60

missing=()
command -v dockerd >/dev/null || docker info >/dev/null 2>&1 || missing+=(docker.io iptables)
command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1 \
    || missing+=(docker-compose)
command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
if [ ${#missing[@]} != 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "docker: missing: ${missing[*]} (on Debian: apt-get install ${missing[*]})" >&2
        exit 1
    fi
    echo "docker: installing with apt: ${missing[*]}" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >/dev/null
fi

docker info >/dev/null 2>&1 && exit 0
if [ "$(id -u)" != 0 ]; then
    echo "docker: no engine answers; start one (systemctl start docker)" >&2
    exit 1
fi
echo "docker: starting the engine, its log is $log" >&2
setsid dockerd >"$log" 2>&1 </dev/null &
for ((waited_s = 0; waited_s < start_limit_s; waited_s++)); do
    docker info >/dev/null 2>&1 && exit 0
    sleep 1
done
echo "docker: the engine did not start in $start_limit_s s, see $log" >&2
exit 1
