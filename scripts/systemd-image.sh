#!/usr/bin/env bash
# Builds the image of a node where systemd runs, for the tests of scopes:
#
#   hakuriver-test/systemd:1   Debian minbase with systemd and dbus
#
# The root file system is kept in ~/.cache/hakuriver-test, under the hash of this script; the second call is instant.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly image=hakuriver-test/systemd:1
hash=$(sha256sum scripts/systemd-image.sh | cut -c1-16)
readonly hash
readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/hakuriver-test
readonly rootfs=$cache/systemd-$hash.tar

say() { printf 'systemd-image: %s\n' "$*" >&2; }

there=$(docker image inspect --format '{{index .Config.Labels "hakuriver.test-image"}}' "$image" 2>/dev/null) || there=
[ "$there" != "$hash" ] || exit 0

if [ ! -f "$rootfs" ]; then
    say "building the root file system of $image"
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # The machine's own apt sources, those of its distribution, as in test-image.sh.
    sources=()
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        if grep -Eqs '^[^#]*\bmain\b' "$file" && grep -Eqs '^[^#]*/(debian|ubuntu)\b' "$file"; then sources+=("$file"); fi
    done
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
    # No unit that touches the machine's kernel, its disks or its network; no getty.
    mmdebstrap --quiet --mode=root --variant=minbase --include=systemd,systemd-sysv,dbus \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='chroot "$1" systemctl mask systemd-udevd.service systemd-modules-load.service systemd-sysctl.service systemd-remount-fs.service systemd-timesyncd.service getty.target console-getty.service systemd-logind.service dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount' \
        --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*' \
        "$release" "$work/rootfs.tar" "${sources[@]}"
    mv "$work/rootfs.tar" "$rootfs"
fi
docker import --change "LABEL hakuriver.test-image=$hash" --change 'CMD ["/sbin/init"]' --change 'ENV container=docker' \
    "$rootfs" "$image" >/dev/null
