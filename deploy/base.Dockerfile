# The same contents as deploy/debian-root.sh, where an image registry is reachable.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        python3.11 default-jre-headless libzookeeper-java libslf4j-java ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 magnetar \
    && useradd --uid 1000 --gid 1000 --home-dir /data --no-create-home magnetar
