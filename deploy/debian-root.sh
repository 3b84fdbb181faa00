#!/usr/bin/env bash
# Writes to stdout a tar of a Debian 12 root with Python 3.11, a Java runtime and ZooKeeper, made
# from Debian packages alone, for machines that reach a Debian mirror and no image registry.
# Packages are unpacked and not configured, which is enough to run these programs and takes a
# third of the time; what their scripts would have set up and we need is written here.
set -euo pipefail

mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
# libzookeeper-java is ZooKeeper's server; the package `zookeeper` would add an init script and a
# desktop's worth of Java.
packages=base-files,coreutils,dash,libc-bin,ca-certificates
packages+=,python3.11,default-jre-headless,libzookeeper-java,libslf4j-java
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

mmdebstrap --quiet --variant=extract --include="$packages" \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    bookworm "$root" "$mirror" >&2

cat >"$root/etc/passwd" <<EOF
root:x:0:0:root:/root:/bin/sh
magnetar:x:1000:1000:Magnetar:/data:/bin/false
EOF
cat >"$root/etc/group" <<EOF
root:x:0:
magnetar:x:1000:
EOF
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
ln -sf python3.11 "$root/usr/bin/python3"
java=$(cd "$root/usr/bin" && ls -d ../lib/jvm/java-17-openjdk-*/bin/java | head -n 1)
ln -sf "$java" "$root/usr/bin/java"
tar --directory "$root" --create --one-file-system .
