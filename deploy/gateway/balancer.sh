#!/bin/sh
# Runs nginx with CONFIG, whose replicas.conf lists the replicas that are ready, and keeps that list.
#
# nginx 1.26 looks names up once, and knows a server that is going only when a request has failed. So this
# asks every address of user-service for /health/ready, three times a second: what drains says no a
# second before it stops listening, and has no more requests by then. Where no replica says yes the
# list stays as it is, and clients get the service's own words for what is wrong.
set -eu
config=${1:?usage: balancer.sh CONFIG}
list=${REPLICAS_FILE:-/tmp/replicas.conf}
# What prints the replicas there are, as address:port.
replicas=${REPLICAS:-"getent ahostsv4 user-service | awk '{print \$1 \":5000\"}'"}
nginx=

ready() {
    set --
    for replica in $(eval "$replicas" | sort -u); do
        set -- "$@" -o /dev/null "http://$replica/health/ready"
    done
    [ $# -gt 0 ] || return 0
    # In parallel: one that hangs holds up the news of the others for a second at most.
    { curl -sZ --max-time 1 -w '%{http_code} %{remote_ip}:%{remote_port}\n' "$@" || true; } | sed -n 's/^200 //p' | sort
}

update() {
    now=$(ready)
    [ -n "$now" ] && [ "$now" != "$listed" ] || return 0
    for replica in $now; do
        # nginx counts no failures: one that broke a connection is not one that is away, and when all
        # have broken one it would refuse everything for a while. This script tells which are away.
        echo "server $replica max_fails=0;"
    done >"$list.new"
    mv "$list.new" "$list"
    listed=$now
    echo "balancer: ready are" $now
    [ -z "$nginx" ] || kill -HUP "$nginx"
}

stop() {
    [ -z "$nginx" ] || { kill -QUIT "$nginx"; wait "$nginx" || true; }
    exit 0
}
trap stop TERM QUIT INT

listed=
until update && [ -n "$listed" ]; do sleep 0.3; done
nginx -c "$config" -g 'daemon off;' &
nginx=$!
while kill -0 "$nginx" 2>/dev/null; do
    sleep 0.3 &
    wait $!
    update
done
exit 1
