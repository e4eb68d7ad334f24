# One peer in a container: small, without root, with a read-only system. docs/docker.md explains the arguments.
#
#   docker build -t swarm:local .
#   docker build -t swarm:local --build-arg TORCH_INDEX=URL_OF_PYTORCHS_CPU_WHEELS .     (much smaller: no CUDA)

ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG TORCH_INDEX=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1
RUN python -m venv /opt/swarm
WORKDIR /src
# Install torch first and alone: then the largest layer changes only when the version of torch does. A wheel from
# PyTorch's index is called 2.13.0+cpu, which the pin 2.13.0 accepts.
COPY constraints.txt ./
RUN /opt/swarm/bin/pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} torch
COPY pyproject.toml README.md LICENSE ./
COPY swarm swarm
COPY averaging averaging
COPY peer peer
RUN /opt/swarm/bin/pip install --constraint constraints.txt .

FROM ${BASE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /home/swarm swarm \
    && install --directory --owner 10001 --group 10001 --mode 0700 /home/swarm /ticket
COPY --from=build /opt/swarm /opt/swarm
ENV PATH=/opt/swarm/bin:$PATH SWARM_HOME=/home/swarm OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /home/swarm
VOLUME /home/swarm
EXPOSE 7420
STOPSIGNAL SIGINT
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=4 CMD ["swarm", "top", "--once"]
ENTRYPOINT ["swarm"]
CMD ["--help"]
