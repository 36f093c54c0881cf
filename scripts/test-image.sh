#!/usr/bin/env bash
# Builds the two images that the demo, the tests and the bench run in, and packs the environments' tarballs:
#
#   hakuriver-test/sshd:1   Debian minbase with openssh-server and rsync    target/test-images/sshd.tar
#   hakuriver-test/bare:1   busybox and nothing else: no sshd, no apt       target/test-images/bare.tar
#
# The root file systems are kept in ~/.cache/hakuriver-test, under the hash of this script; the second call is instant.
set -euo pipefail
cd "$(dirname "$0")/.."

hash=$(sha256sum scripts/test-image.sh | cut -c1-16)
readonly hash
readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/hakuriver-test
readonly out=target/test-images

say() { printf 'test-image: %s\n' "$*" >&2; }

work=
trap 'if [ -n "$work" ]; then rm -rf "$work"; fi' EXIT

# The machine's own mirror, so that a proxy or a local mirror is used where one is configured.
mirror() {
    local uri
    uri=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
        sed -nE 's/^(URIs:|deb +(\[[^]]*\] +)?)[ ]*([a-z]+:\/\/[^ ]*\/debian)\/?( .*)?$/\3/p' | head -n 1)
    echo "${uri:-http://deb.debian.org/debian}"
}

rootfs_sshd() {
    # Documentation and translations are half of the size, and nobody reads them in a test.
    mmdebstrap --quiet --mode=root --variant=minbase --include=openssh-server,rsync \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='rm -f "$1"/etc/ssh/ssh_host_*' \
        --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*' \
        bookworm "$1" "deb $(mirror) bookworm main"
}

rootfs_bare() {
    local tree=$work/bare name
    mkdir -p "$tree"/{bin,etc,proc,sys,dev,tmp,root,run} "$work/deb"
    (cd "$work/deb" && apt-get download -qq -o APT::Sandbox::User=root busybox-static)
    dpkg-deb -x "$work"/deb/busybox-static_*.deb "$work/deb/tree"
    cp "$work"/deb/tree/bin/busybox "$tree/bin/busybox"
    for name in sh ls cat echo sleep id uname true mkdir rm ps nc wget; do ln -s busybox "$tree/bin/$name"; done
    echo 'root:x:0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
    echo 'root:x:0:' >"$tree/etc/group"
    tar --numeric-owner --owner=0 --group=0 -C "$tree" -cf "$1" .
}

# build NAME: root file system (cached) -> image hakuriver-test/NAME:1 -> target/test-images/NAME.tar
build() {
    local name=$1 image=hakuriver-test/$1:1 rootfs=$cache/$1-$hash.tar id
    id=$(docker image inspect --format '{{index .Config.Labels "hakuriver.test-image"}} {{.Id}}' "$image" 2>/dev/null) || id=
    if [ "${id% *}" != "$hash" ]; then
        if [ ! -f "$rootfs" ]; then
            say "building the root file system of $image"
            mkdir -p "$cache"
            work=$(mktemp -d "$cache/work.XXXXXX")
            "rootfs_$name" "$work/rootfs.tar"
            mv "$work/rootfs.tar" "$rootfs"
            rm -rf "$work"
            work=
        fi
        docker import --change "LABEL hakuriver.test-image=$hash" --change 'CMD ["/bin/sh"]' "$rootfs" "$image" >/dev/null
        id=$(docker image inspect --format '{{index .Config.Labels "hakuriver.test-image"}} {{.Id}}' "$image")
    fi
    id=${id#* }
    # Packed as 0.3 packs an environment: `docker save` of the tag hakuriver/<environment>:base.
    if [ "$(cat "$out/$name.id" 2>/dev/null)" != "$id" ] || [ ! -f "$out/$name.tar" ]; then
        say "packing $out/$name.tar"
        mkdir -p "$out"
        docker tag "$image" "hakuriver/test-$name:base"
        docker save --output "$out/$name.tar.part" "hakuriver/test-$name:base"
        docker rmi "hakuriver/test-$name:base" >/dev/null
        mv "$out/$name.tar.part" "$out/$name.tar"
        echo "$id" >"$out/$name.id"
    fi
}

build sshd
build bare
