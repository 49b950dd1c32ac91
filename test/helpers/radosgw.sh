#!/usr/bin/env bash
# A private S3 server for tests: Ceph's gateway over one mon and one osd, no mgr, no authentication between them, on
# loopback, in a temporary folder. When it serves, it prints one line of JSON: endpoint, region, keys. It lives until its
# standard input ends, so it also ends when whoever started it is killed. From a terminal: until Ctrl-D.
# Given an address, it serves at all that this machine has, and names that one.
set -euo pipefail

for program in radosgw ceph-mon ceph-osd; do
  command -v "$program" >/dev/null || { echo "no $program: run deploy/bootstrap.sh test" >&2 && exit 1; }
done

address=${1:-127.0.0.1}
listen=${1:+0.0.0.0}
folder=$(mktemp -d "${TMPDIR:-/tmp}/lensmill-radosgw-XXXXXX")
export CEPH_CONF=$folder/ceph.conf
pids=()
exec 3>&2

finish() {
  local status=$?
  trap '' INT TERM HUP
  # Bash leaves what is redirected as it was where it gave up, so its own standard error is kept as 3.
  if ((status)); then tail --lines=20 "$folder"/*.log >&3; fi
  # The last one first: without its osd the gateway would wait for minutes. None has anything worth saving.
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill -KILL "${pids[i]}" && wait "${pids[i]}"
  done 2>/dev/null || true
  rm -rf "$folder"
}
trap finish EXIT
trap 'exit 0' INT TERM HUP

start() {
  "$@" -f </dev/null >"$folder/$1.log" 2>&1 &
  pids+=($!)
}

uuid() { cat /proc/sys/kernel/random/uuid; }

# Two free ports below those that the kernel lends to clients (32768 and up): one of these may be taken between our
# look and the server's start, and then `ceph` would wait for a mon that is not there.
read -r mon_port s3_port < <(
  /usr/bin/python3 - <<'EOF'
from random import sample
from socket import create_server

servers = []
for port in sample(range(20000, 32768), 100):
    try:
        servers.append(create_server(('127.0.0.1', port)))
    except OSError:
        continue
    if len(servers) == 2:
        break
print(*(server.getsockname()[1] for server in servers))
EOF
)

# v1: over the newer protocol the gateway insists on authentication.
cat >"$CEPH_CONF" <<EOF
[global]
fsid = $(uuid)
mon host = v1:127.0.0.1:$mon_port
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
mon data = $folder/mon
osd data = $folder/osd
rgw data = $folder/rgw
run dir = $folder
admin socket =
log file =
mon cluster log file = /dev/null

# One copy on one disk: a sparse file that grows with what is written.
bluestore block size = 8G
osd memory target = 1G
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1

# These would ask the mgr, which is not there.
osd class update on start = false
osd crush update on start = false

# Seconds that a change of the cluster's maps (an osd up, a pool made) waits for others to join it. There are dozens.
paxos propose interval = 0.01
paxos min wait = 0.01

# Without tcp_nodelay, small replies wait 40 ms for an acknowledgement that the client delays.
rgw frontends = beast endpoint=${listen:-127.0.0.1}:$s3_port tcp_nodelay=1

[mon.a]
public addrv = v1:127.0.0.1:$mon_port
EOF
mkdir "$folder"/{mon,osd,rgw}

{
  ceph-mon --mkfs -i a
  start ceph-mon -i a
  osd=$(uuid)
  ceph --connect-timeout 120 osd new "$osd"
  ceph --connect-timeout 120 osd crush add osd.0 1 root=default
  ceph-osd --mkfs -i 0 --osd-uuid "$osd"
  start ceph-osd -i 0
  for user in tester stranger; do
    # The first may say what others may do.
    caps=$([ $user != tester ] || echo 'user-policy=*')
    radosgw-admin user create --uid $user --display-name $user --access-key $user --secret $user-secret --caps "$caps"
  done
  start radosgw
  until (exec 4<>"/dev/tcp/127.0.0.1/$s3_port"); do
    kill -0 "${pids[-1]}"
    sleep 0.05
  done
} >"$folder/start.log" 2>&1

cat <<EOF
{"endpoint":"http://$address:$s3_port","region":"us-east-1","accessKeyId":"tester","secretAccessKey":"tester-secret","stranger":{"accessKeyId":"stranger","secretAccessKey":"stranger-secret"}}
EOF
cat >/dev/null
