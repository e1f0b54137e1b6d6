# One image for every role: Ray's head and workers, launches, the dashboard. Two builds of it differ in torch only:
#   docker build --tag downsample-tuner:0.1.0 .                                          # CUDA, and without a GPU as good: some GB
#   docker build --tag downsample-tuner:0.1.0 --build-arg TORCH_BACKEND=cpu .            # machines without GPUs: a fraction of that
# The base image is pinned by its version. To pin it to the byte, append the digest that `docker buildx imagetools inspect` prints.
FROM python:3.11.14-slim-bookworm AS builder
# Empty: torch as pyproject.toml pins it, whose wheel for Linux brings CUDA. Else what `uv pip install --torch-backend` takes.
ARG TORCH_BACKEND=""
ENV UV_LINK_MODE=copy VIRTUAL_ENV=/opt/tuner
RUN pip install --no-cache-dir uv==0.13.8 && uv venv --python /usr/local/bin/python /opt/tuner
WORKDIR /build
# Apart from our own code, so that a change in it leaves these gigabytes as they are. The pins are in pyproject.toml, too.
COPY pyproject.toml ./
RUN uv pip install --no-cache --compile-bytecode ${TORCH_BACKEND:+--torch-backend "$TORCH_BACKEND"} --requirements pyproject.toml
COPY LICENSE README.md ./
COPY trainers trainers
COPY studies studies
COPY tuner tuner
RUN uv pip install --no-cache --compile-bytecode --no-deps .

FROM python:3.11.14-slim-bookworm
# Volumes that are mounted here for the first time take over the folders' owner.
RUN useradd --uid 1000 --create-home tuner && install --directory --owner=1000 --group=1000 /srv/tuner /srv/tuner/runs /srv/tuner/data
COPY --from=builder /opt/tuner /opt/tuner
COPY --chmod=755 deploy/with-secrets deploy/on-cluster /usr/local/bin/
ENV PATH=/opt/tuner/bin:$PATH PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /srv/tuner
# No HEALTHCHECK: what "well" means differs from role to role, and docker-compose.yml and deploy/kuberay.yaml say it for each.
ENTRYPOINT ["with-secrets"]
CMD ["tuner", "--help"]
