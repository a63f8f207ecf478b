# Everything that needs no engine: the API, jobs, migrations, the commands for operators, and the
# workers of backends that are called over HTTP or simulated. From the root of the repository:
#   docker build --file deploy/api.Dockerfile --tag carpool:0.1.0 .
FROM python:3.11-slim-bookworm AS dependencies
WORKDIR /build
COPY pyproject.toml deploy/constraints.txt ./
RUN python -m venv /opt/carpool \
    && python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > requirements.txt \
    && /opt/carpool/bin/pip install --no-cache-dir --requirement requirements.txt --constraint constraints.txt

FROM python:3.11-slim-bookworm AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

# The packages are one layer, which changes with their versions alone; Carpool's own is small.
FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --create-home --home-dir /var/lib/carpool carpool \
    && install --directory --owner carpool --group carpool /var/lib/carpool/files
COPY --from=dependencies /opt/carpool /opt/carpool
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    /opt/carpool/bin/pip install --no-cache-dir --no-deps --no-index /wheel/*.whl
ENV PATH=/opt/carpool/bin:$PATH \
    CARPOOL_DATA_DIR=/var/lib/carpool \
    CARPOOL_HOST=0.0.0.0 \
    CARPOOL_PORT=8000 \
    CARPOOL_METRICS_HOST=0.0.0.0 \
    CARPOOL_METRICS_PORT=9000 \
    CARPOOL_LOG_JSON=true
WORKDIR /var/lib/carpool
USER 10001
EXPOSE 8000 9000
# Of the API. Workers and jobs answer on the port of the metrics.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['CARPOOL_PORT'] + '/readyz', timeout=4)"]
ENTRYPOINT ["carpool"]
CMD ["api"]
