#!/usr/bin/env bash
# Builds the images magnetar:latest and magnetar-zookeeper:latest.
#
# The base is debian:bookworm-slim where a registry is reachable, and otherwise the same Debian
# made from its packages; it is made once and kept (BASE=new makes it again). Wheels are
# collected outside the build, for the image's Python 3.11, so that the build needs no network;
# both are fetched at the same time.
set -euo pipefail
cd "$(dirname "$0")/.."

base=magnetar-base:bookworm
registry_limit_s=20
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python

deploy/ensure-docker.sh

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT

make_base() {
    echo "images: making the base image $base" >&2
    if timeout "$registry_limit_s" docker pull --quiet debian:bookworm-slim >/dev/null 2>&1; then
        docker build --quiet --tag "$base" --file deploy/base.Dockerfile "$context" >/dev/null
    else
        echo "images: no registry is reachable, so it is made from Debian packages" >&2
        deploy/debian-root.sh 2>"$context/log" | docker import - "$base" >/dev/null || {
            cat "$context/log" >&2
            return 1
        }
    fi
}

# Both distributions as wheels, and all they need for the image's Python and C library.
collect_wheels() {
    local wheels=$1 platforms=() isolation=() minor
    for minor in $(seq 17 36); do
        platforms+=(--platform "manylinux_2_${minor}_$(uname -m)")
    done
    platforms+=(--platform "manylinux2014_$(uname -m)")
    tar --create --exclude=./.git --exclude=./.venv --exclude=./.cache --exclude=./build \
        --exclude=./client/build --exclude=__pycache__ . | tar --extract --directory "$context/source"
    # Build isolation would fetch setuptools twice.
    "$python" -c 'import setuptools' 2>/dev/null && isolation=(--no-build-isolation)
    "$python" -m pip wheel --quiet "${isolation[@]}" --disable-pip-version-check --no-deps --wheel-dir "$wheels" \
        "$context/source/client" "$context/source"
    "$python" -m pip download --quiet --disable-pip-version-check --dest "$wheels" \
        --find-links "$wheels" --only-binary=:all: --python-version 3.11 "${platforms[@]}" \
        --constraint constraints.txt pip "$wheels"/magnetar*.whl
}

mkdir "$context/source" "$context/image" "$context/image/wheels"
making=
if [ "${BASE:-}" = new ] || ! docker image inspect "$base" >/dev/null 2>&1; then
    make_base &
    making=$!
fi
echo "images: collecting wheels" >&2
collect_wheels "$context/image/wheels"
[ -z "$making" ] || wait "$making"
cp deploy/zoo.cfg "$context/image"
echo "images: building" >&2
for target in magnetar zookeeper; do
    tag=magnetar:latest
    [ "$target" = zookeeper ] && tag=magnetar-zookeeper:latest
    # The classic builder is in every engine; its deprecation notice is of no use here.
    if ! DOCKER_BUILDKIT=0 docker build --build-arg BASE="$base" --target "$target" \
        --tag "$tag" --file deploy/Dockerfile "$context/image" >"$context/log" 2>&1
    then
        cat "$context/log" >&2
        exit 1
    fi
    echo "images: $tag" >&2
done
