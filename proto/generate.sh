#!/bin/sh
# Regenerates the committed protobuf code; `git diff --exit-code` afterwards shows it was fresh.
# Needs grpcio-tools and mypy-protobuf in the Python given as $PYTHON (default: python3).
set -eu
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
plugins="$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')"
# The virtual path makes the generated modules import each other as magnetar.wire.*.
PATH="$plugins:$PATH" "$python" -m grpc_tools.protoc \
  --proto_path=magnetar/wire=proto \
  --python_out=client --grpc_python_out=client --mypy_out=client --mypy_grpc_out=client \
  $(cd proto && printf 'magnetar/wire/%s ' *.proto)
