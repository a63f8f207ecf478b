# A worker with vLLM on CUDA. The CUDA libraries are packages that torch brings; of the host it needs
# the driver, and the NVIDIA container toolkit. From the root of the repository:
#   docker build --file deploy/worker.Dockerfile --tag carpool-worker:0.1.0 .
FROM python:3.11-slim-bookworm AS dependencies
WORKDIR /build
COPY pyproject.toml deploy/constraints-cuda.txt ./
RUN python -m venv /opt/carpool \
    && python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"]["vllm"], sep="\n")' > requirements.txt \
    && /opt/carpool/bin/pip install --no-cache-dir --requirement requirements.txt --constraint constraints-cuda.txt

FROM python:3.11-slim-bookworm AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.11-slim-bookworm
# The engine compiles its kernels' launchers when it starts.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /var/lib/carpool carpool
COPY --from=dependencies /opt/carpool /opt/carpool
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    /opt/carpool/bin/pip install --no-cache-dir --no-deps --no-index /wheel/*.whl
ENV PATH=/opt/carpool/bin:$PATH \
    CARPOOL_DATA_DIR=/var/lib/carpool \
    CARPOOL_METRICS_HOST=0.0.0.0 \
    CARPOOL_METRICS_PORT=9000 \
    CARPOOL_LOG_JSON=true \
    HF_HOME=/var/lib/carpool/models \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    VLLM_NO_USAGE_STATS=1
WORKDIR /var/lib/carpool
USER 10001
EXPOSE 9000
# It is ready when the model is loaded, which may take many minutes where it must be downloaded.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['CARPOOL_METRICS_PORT'] + '/readyz', timeout=4)"]
ENTRYPOINT ["carpool"]
CMD ["worker", "--backend", "gpu"]
