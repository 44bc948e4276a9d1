#!/bin/sh
# nginx.sh CONFIG NAME PORT [PATH]: runs nginx with CONFIG, before the servers that NAME stands for.
#
# nginx 1.26 resolves a name and reads its files once, at its start. This script looks again and again, and
# reloads nginx when the addresses change, the certificate, or the password of Redis. With PATH, only
# servers that answer it with 200 are in the list: a replica that drains is not ready for a second before
# it stops listening, and gets no more requests by then. If the name has no address, or no server is ready,
# the list stays.
set -eu
config=${1:?usage: nginx.sh CONFIG NAME PORT [PATH]} name=$2 port=$3 path=${4:-}
folder=${FOLDER:-/tmp}
certificates=${CERTIFICATES:-/etc/nginx/tls}
# A command that prints the servers as address:port.
servers=${SERVERS:-resolved}
nginx=
pause=1
[ -z "$path" ] || pause=0.3

resolved() {
    { getent ahostsv4 "$name" || getent ahostsv6 "$name"; } |
        awk -v port="$port" '{print ($1 ~ /:/ ? "[" $1 "]" : $1) ":" port}' | sort -u
}

usable() {
    [ -n "$path" ] || { $servers; return; }
    set --
    for server in $($servers); do
        set -- "$@" -o /dev/null "http://$server$path"
    done
    [ $# -gt 0 ] || return 0
    # In parallel: a hanging replica delays the result by a second at most.
    { curl -sZ --max-time 1 -w '%{http_code} %{url}\n' "$@" || true; } |
        sed -n "s|^200 http://\(.*\)$path|\1|p" | sort
}

update() {
    now=$(usable)
    [ -n "$now" ] || now=$listed
    files=$(cat "$certificates"/*.pem "${PAGES_REDIS_PASSWORD_FILE:-/dev/null}" 2>/dev/null | cksum)
    [ -n "$now" ] && [ "$now $files" != "$listed $read" ] || return 0
    for server in $now; do
        # No failure counting by nginx: it would refuse every request once each replica had broken one
        # connection. This script decides about availability.
        echo "server $server max_fails=0;"
    done >"$folder/servers.new"
    mv "$folder/servers.new" "$folder/servers.conf"
    listed=$now read=$files
    echo "nginx.sh: $name is at" $now
    [ -z "$nginx" ] || kill -HUP "$nginx"
}

stop() {
    [ -z "$nginx" ] || { kill -QUIT "$nginx"; wait "$nginx" || true; }
    exit 0
}
trap stop TERM QUIT INT

# A kernel without IPv6 has no IPv6 addresses to listen on.
if [ ! -e /proc/net/if_inet6 ]; then
    mkdir -p "$folder/ipv4"
    cp "${config%/*}"/*.conf "$folder/ipv4"
    # Only the edge has these.
    cp /etc/nginx/edge/*.conf "$folder/ipv4" 2>/dev/null || true
    sed -i "/listen \[::/d; s|/etc/nginx/edge/|$folder/ipv4/|" "$folder"/ipv4/*.conf
    config=$folder/ipv4/${config##*/}
fi
# Until there is an address, nginx answers 503.
echo "server 127.0.0.1:$port down;" >"$folder/servers.conf"
case ${HTTPS_PORT:-443} in
443 | *:443) https_port= ;;
*) https_port=:${HTTPS_PORT##*:} ;;
esac
{
    # Whether scripts of other origins may read the problems of nginx.
    echo "map '' \$cors_origin { default '${CORS_ORIGINS:+*}'; }"
    # Where plain HTTP is redirected to.
    echo "map '' \$https_port { default '$https_port'; }"
} >"$folder/environment.conf"
# The name servers that Lua asks.
name_servers=$(sed -nE \
    -e 's/^nameserver[[:blank:]]+([0-9.]+)([[:blank:]].*)?$/\1/p' \
    -e 's/^nameserver[[:blank:]]+([[:xdigit:]]*:[[:xdigit:]:.]*)([[:blank:]].*)?$/[\1]/p' /etc/resolv.conf | xargs)
echo "resolver ${name_servers:-127.0.0.1} valid=1s;" >"$folder/resolver.conf"
listed='' read=''
update
# Where the hard limit of open files is below the one in CONFIG, nginx would keep the soft one.
ulimit -Sn "$(ulimit -Hn)"
nginx -c "$config" -g 'daemon off;' &
nginx=$!
while kill -0 "$nginx" 2>/dev/null; do
    sleep "$pause" &
    wait $!
    update
done
exit 1
