#!/usr/bin/env bash
# The tasks of a client with curl. Usage: users.sh [URL]
set -euo pipefail
users=${1:-http://localhost:5000}/api/v1/users
json='Content-Type: application/json'

# Create a user, with a key of its own: curl sends the request again after a lost connection, 429 and 503
# (it waits as long as Retry-After says), and the user is created once.
key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
created=$(curl -fsS --retry 5 --retry-all-errors "$users" -H "$json" -H "Idempotency-Key: \"$key\"" \
  -w '\n%header{location}' -d '{"username": "ada", "email": "ada@example.com"}')
user=${1:-http://localhost:5000}$(tail -n 1 <<<"$created")
echo "created ${user##*/}"

# Walk the list of all users by cursor.
number=0 cursor='' query='per_page=100&fields=id'
while true; do
  page=$(curl -fsS "$users?$query${cursor:+&cursor=$cursor}")
  number=$((number + $(grep -o '"id":' <<<"$page" | wc -l)))
  cursor=$(sed -n 's/.*"next_cursor":"\([^"]*\)".*/\1/p' <<<"$page")
  [[ -n $cursor ]] || break
done
echo "walked $number"

# Change the user as it was read. Status 412: another client has changed it; read it again.
etag=$(curl -fsS -o /dev/null -w '%header{etag}' "$user")
curl -fsS -X PATCH "$user" -H "$json" -H "If-Match: $etag" -d '{"email": "countess@example.com"}' -o /dev/null
echo "changed ${user##*/}"
