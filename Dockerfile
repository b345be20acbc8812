# polyjob in a container, with its jobs in containers of the same Engine. See docs/docker-runner.md.
# To build without a network, put the wheels of requirements.lock that polyjob needs into a folder wheels/ here.

ARG BASE=python:3.12-slim

FROM ${BASE} AS made
WORKDIR /source
COPY . .
RUN python3 -m venv /make && mkdir -p wheels \
    && python3 -c 'print(open("requirements.lock").read().partition("# Dependencies of the tests")[0])' > runs.lock \
    && { [ -n "$(ls wheels)" ] || /make/bin/pip download --quiet --no-deps --require-hashes -r runs.lock -d wheels; } \
    && /make/bin/pip wheel --quiet --no-index --find-links wheels --no-deps --wheel-dir wheels . \
    && python3 -m venv --without-pip /opt/polyjob \
    && /make/bin/pip --python /opt/polyjob/bin/python install --quiet --no-index --find-links wheels \
        'polyjob[docker,kubernetes]'

FROM ${BASE}
COPY --from=made /opt/polyjob /opt/polyjob
RUN echo 'polyjob:x:10001:10001::/data:/bin/false' >> /etc/passwd && echo 'polyjob:x:10001:' >> /etc/group \
    && mkdir /data && chown 10001:10001 /data
ENV PATH=/opt/polyjob/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/data POLYJOB_DATA_DIR=/data POLYJOB_HOST=0.0.0.0 POLYJOB_PORT=8000 POLYJOB_RUNNER=docker
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["polyjob", "serve"]
