#!/bin/sh
# Creates a self-signed certificate and its key in FOLDER, unless certificate.pem and key.pem exist: an
# operator's own certificate stays. OWNER gets both files.
set -eu
cd "${1:?usage: certificate.sh FOLDER OWNER}"
owner=${2:?usage: certificate.sh FOLDER OWNER}

if [ -s key.pem ] && [ -s certificate.pem ]; then
  chown "$owner" key.pem certificate.pem
  exit 0
fi
command -v openssl >/dev/null || { echo "certificate.sh: this image has no openssl" >&2; exit 1; }

umask 077
rm -f key.new certificate.new  # of a start that was interrupted
# Ten years: no client trusts it anyway, and an expiry would only surprise.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 -days 3650 \
  -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1 \
  -keyout key.new -out certificate.new
chown "$owner" key.new certificate.new
# Renamed when complete: the next start takes no partial file for a whole one.
mv key.new key.pem
mv certificate.new certificate.pem
echo "certificate.sh: made a self-signed certificate for localhost"
