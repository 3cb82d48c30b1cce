#!/usr/bin/env bash
# Import a stand-in for the Python image of docker/Dockerfile.slim into a Docker engine that is thrown away, where no
# registry can be reached: Debian with its own Python, and the wheels that the image is built of. Wants root.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=$(sed -n 's/^ARG PYTHON_IMAGE=//p' docker/Dockerfile.slim)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

debootstrap --variant=minbase --include=python3,python3-venv,libpython3.11,ca-certificates bookworm "$root"
cp /etc/resolv.conf "$root/etc/"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
mkdir "$root/src"
tar --create --exclude=model_repository --exclude=.venv --exclude=.git . | tar --extract --directory "$root/src"
# With the network of this machine, so that building the image needs none.
chroot "$root" sh -c 'python3 -m venv /tmp/pip && /tmp/pip/bin/pip download --dest /wheels "/src[serve,sign]" hatchling'
rm -rf "$root/src" "$root/tmp/pip" "$root"/var/cache/apt/archives/*.deb
tar --create --directory "$root" . |
    docker import --change 'ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin' - "$name"
