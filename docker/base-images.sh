#!/usr/bin/env bash
# Makes the Dockerfile's two base images out of this machine's own files, for a machine whose Docker
# engine has no images and can't pull any.
#
#   usage: docker/base-images.sh [BUILD_IMAGE [RUN_IMAGE]]
#
# The build image holds the C tool chain as the Debian packages installed here bring it, the Rust tool
# chain in use, and cargo's downloaded crates with what this machine tells cargo and TLS. The run
# image holds the C library, bash and what a process expects of /etc. Both are selections: nothing
# else of the machine goes in. An image that is there already is left alone.
set -euo pipefail
build=${1:-rust:1-bookworm}
run=${2:-debian:bookworm-slim}

command -v dpkg-query >/dev/null || { echo "base-images: this needs a Debian machine" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The files of some packages and of all they depend on, as far as they are installed.
files_of() {
    apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances "$@" 2>/dev/null | grep -E '^[a-z0-9]' | sort -u >"$work/packages"
    dpkg-query -W -f='${db:Status-Status} ${binary:Package}\n' 2>/dev/null \
        | sed -n 's/^installed //p' | sort -u >"$work/installed"
    sed 's/:.*//' "$work/packages" | sort -u >"$work/names"
    awk -F: 'NR == FNR { want[$1]; next } $1 in want' "$work/names" "$work/installed" \
        | xargs dpkg-query -L 2>/dev/null | grep -vE '^/usr/share/(doc|man|locale|info|lintian|bash-completion)/'
}

# Packs a list of paths, parents first; what is not there is left out. Debian lists /lib/x where
# /lib is a link to /usr/lib: the file goes where the link leads.
pack() {
    for link in bin sbin lib lib64; do
        if [ -L "/$link" ]; then echo "/$link"; fi
    done >"$work/links"
    sed -E "$([ -L /lib ] && echo 's#^/(bin|sbin|lib|lib64)/#/usr/\1/#')" | sort -u \
        | while IFS= read -r path; do
            if [ -e "$path" ] || [ -L "$path" ]; then echo "$path"; fi
        done | cat "$work/links" - | grep -vE '^/\.?$' | awk '!seen[$0]++ { print substr($0, 2) }' >"$work/list"
    tar -C / --no-recursion -cf - -T "$work/list"
}

# What any process expects of /etc and around it.
common() {
    files_of libc6 libgcc-s1 libstdc++6 bash base-files base-passwd
    printf '%s\n' /etc/nsswitch.conf /etc/ld.so.conf /etc/ld.so.cache /etc/os-release \
        /etc/debian_version /usr/bin/sh /usr/bin/dash /tmp /var /var/tmp /var/lib /root /run
    find /etc/ld.so.conf.d 2>/dev/null || true
}

toolchain() {
    files_of gcc g++ libc6-dev make dash coreutils findutils grep sed gawk mawk tar gzip diffutils \
        pkg-config ca-certificates debianutils
    printf '%s\n' /usr/bin/cc /usr/bin/c++ /usr/bin/awk /usr/bin/pkg-config /usr/bin/which
    find /etc/alternatives /etc/ssl /usr/local/share/ca-certificates 2>/dev/null || true
}

have() { docker image inspect "$1" >/dev/null 2>&1; }

if have "$run"; then
    echo "base-images: $run is there"
else
    common | pack | docker import -c 'LABEL org.tercet.base=local' -c 'CMD ["/bin/bash"]' - "$run" >/dev/null
    echo "base-images: made $run"
fi

if have "$build"; then
    echo "base-images: $build is there"
else
    sysroot=$(rustc --print sysroot)
    cargo_home=${CARGO_HOME:-$HOME/.cargo}
    # The tool chain goes to /usr/local/rust, cargo's home to /usr/local/cargo.
    { common; toolchain; } | pack >"$work/base.tar"
    tar -C "$sysroot" --exclude='./share/doc' --exclude='./share/man' --exclude='./lib/rustlib/src' \
        --transform 's#^\.#usr/local/rust#' -cf "$work/rust.tar" .
    parts=()
    for part in config config.toml registry/index registry/cache; do
        if [ -e "$cargo_home/$part" ]; then parts+=("./$part"); fi
    done
    tar -C "$cargo_home" --transform 's#^\.#usr/local/cargo#' -cf "$work/cargo.tar" "${parts[@]}"
    tar -Af "$work/base.tar" "$work/rust.tar"
    tar -Af "$work/base.tar" "$work/cargo.tar"
    docker import -c 'LABEL org.tercet.base=local' -c 'ENV CARGO_HOME=/usr/local/cargo' \
        -c 'ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        -c 'CMD ["/bin/bash"]' "$work/base.tar" "$build" >/dev/null
    echo "base-images: made $build"
fi
