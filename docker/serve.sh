#!/bin/sh
# Starts Triton for production on /models, behind Envoy; arguments are added to Triton's.
#   MODEL_REPOSITORY    another folder
#   NAS_ADMIN_KEY       opens shared memory, traces and log settings to requests with the header
#                       admin-key (gRPC: triton-grpc-protocol-admin-key); without it they are closed to all
#   NAS_ADMIN_KEY_FILE  a file with the key, such as a Docker secret
#   NAS_TLS_CERT, NAS_TLS_KEY   PEM files: gRPC, HTTP and metrics speak TLS
#   NAS_TLS_CLIENT_CA   PEM file: clients must show a certificate of this authority
#   NAS_VERIFY_KEY      public key (PEM): nothing is served that is not signed, see nas-build --sign
#   NAS_CORS_ORIGINS    whose pages may ask from a browser, such as https://example.com, with spaces between
#   NAS_WATCH           1: wait for a first model, and start again when models were built or taken away
#   NAS_START_S         seconds for the models to load; default 600
#   NAS_STATE           folder for what `serve probe` reads; default /tmp/nas-triton-state
#
# serve probe ready, serve probe live: exit code 0 if the server answers its models' known answers, or if its supervisor
# runs, which starts the rest again; for the probes of containers.
set -eu
export NAS_STATE="${NAS_STATE:-/tmp/nas-triton-state}"

if [ "${1:-}" = probe ]; then
    test -n "$(find "$NAS_STATE/${2:-ready}" -mmin -0.5 2>/dev/null)"
    exit
fi

if [ -n "${NAS_ADMIN_KEY_FILE:-}" ]; then
    NAS_ADMIN_KEY=$(cat "$NAS_ADMIN_KEY_FILE")
    export NAS_ADMIN_KEY
fi

# Models cannot be loaded or unloaded from outside, and the server is ready when all of them are. The supervisor starts it
# again when a model does not answer.
exec python3 "${NAS_SUPERVISOR:-/usr/local/lib/nas-triton}" tritonserver \
    "--model-repository=${MODEL_REPOSITORY:-/models}" \
    --model-control-mode=none \
    "$@"
