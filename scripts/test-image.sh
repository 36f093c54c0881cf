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

# The machine's own apt sources, those of its distribution: its release, and its mirror where one is configured.
sources() {
    local file found=()
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        # Third parties' repositories have neither `main` nor anything that the image needs.
        if grep -Eqs '^[^#]*\bmain\b' "$file" && grep -Eqs '^[^#]*/(debian|ubuntu)\b' "$file"; then found+=("$file"); fi
    done
    [ ${#found[@]} -gt 0 ] || {
        say "no apt source of this machine's distribution in /etc/apt/sources.list and /etc/apt/sources.list.d"
        return 1
    }
    printf '%s\n' "${found[@]}"
}

rootfs_sshd() {
    local release files
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
    files=$(sources)
    mapfile -t files <<<"$files"
    # Documentation and translations are half of the size, and nobody reads them in a test.
    mmdebstrap --quiet --mode=root --variant=minbase --include=openssh-server,rsync \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='rm -f "$1"/etc/ssh/ssh_host_*' \
        --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*' \
        "$release" "$1" "${files[@]}"
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
