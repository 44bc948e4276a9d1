#!/bin/sh
# Runs nginx with CONFIG and maintains its replicas.conf, the list of ready replicas.
#
# nginx 1.26 resolves names once and notices a stopping server only by a failed request. This script
# asks each address of user-service for /health/ready three times a second. A draining replica is not
# ready for a second before it stops listening, and gets no more requests by then. If no replica is
# ready the list stays, and clients get the error of the service itself.
set -eu
config=${1:?usage: balancer.sh CONFIG}
list=${REPLICAS_FILE:-/tmp/replicas.conf}
# A command that prints the replicas as address:port.
replicas=${REPLICAS:-"getent ahostsv4 user-service | awk '{print \$1 \":5000\"}'"}
nginx=

ready() {
    set --
    for replica in $(eval "$replicas" | sort -u); do
        set -- "$@" -o /dev/null "http://$replica/health/ready"
    done
    [ $# -gt 0 ] || return 0
    # In parallel: a hanging replica delays the result by a second at most.
    { curl -sZ --max-time 1 -w '%{http_code} %{remote_ip}:%{remote_port}\n' "$@" || true; } | sed -n 's/^200 //p' | sort
}

update() {
    now=$(ready)
    [ -n "$now" ] && [ "$now" != "$listed" ] || return 0
    for replica in $now; do
        # No failure counting by nginx: it would refuse every request once each replica had broken one
        # connection. This script decides about availability.
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
