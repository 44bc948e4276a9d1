#!/bin/sh
# Makes a self-signed certificate and its key in FOLDER, unless there are some already: so a
# certificate of your own, put there as certificate.pem and key.pem, stays. OWNER gets the key.
set -eu
cd "${1:?usage: certificate.sh FOLDER OWNER}"
owner=${2:?usage: certificate.sh FOLDER OWNER}

[ ! -s key.pem ] || [ ! -s certificate.pem ] || exit 0
command -v openssl >/dev/null || { echo "certificate.sh: this image has no openssl" >&2; exit 1; }

umask 077
# Ten years: nobody trusts it anyway, and it shall not end while nobody looks.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 -days 3650 \
  -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1 \
  -keyout key.new -out certificate.new
chown "$owner" key.new
chmod 0444 certificate.new
# Named when they are whole: an interrupted start leaves no half a file to the next one.
mv key.new key.pem
mv certificate.new certificate.pem
echo "certificate.sh: made a self-signed certificate for localhost"
