#!/bin/sh
# Fetches what the long test `regression_long` needs: PostgreSQL's regression tests (a part of Debian's
# source package) and the header files of the server, for the installed major version.
#
#   sh tests/tools/regression_sources.sh FOLDER MAJOR
#
# Makes FOLDER/regress and FOLDER/include. Nothing is installed, and the system's lists of packages are
# not touched: the source lists have a folder of their own.
set -eu

folder=$1 major=$2
[ -e "$folder/done-$major" ] && exit 0
rm -rf "$folder"
mkdir -p "$folder/lists/partial" "$folder/packages"
cd "$folder"
here=$PWD
# The same mirrors that the system has its packages from.
# shellcheck disable=SC2016
apt-get indextargets --format 'deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    sort -u >sources.list
apt() {
    apt-get -qq -o Dir::Etc::sourcelist="$here/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$here/lists" -o APT::Sandbox::User=root "$@"
}
apt update
# The version that is installed.
# shellcheck disable=SC2016
version=$(dpkg-query -W -f '${source:Version}' "postgresql-$major")
(cd packages && apt source --download-only "postgresql-$major=$version")
(cd packages && apt-get -qq -o APT::Sandbox::User=root download "postgresql-server-dev-$major=$version")
tar -xf packages/*.orig.tar.* --wildcards --strip-components=3 '*/src/test/regress'
dpkg -x packages/postgresql-server-dev-*.deb headers
mv headers/usr/include/postgresql include
rm -rf packages headers lists
[ -d regress/sql ] && [ -d "include/$major/server" ]
: >"done-$major"
