# One image for broker and nodes: `docker build -t kentongan .`, then `docker run kentongan --help`. See docs/deploy.md.
#
# A tag can come to mean another image. To build from exactly the one that you checked, name it by digest:
#   docker build --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:... -t kentongan .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
COPY . /src
RUN sh /src/deploy/image/build.sh /src /opt/kentongan

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Kentongan" \
      org.opencontainers.image.description="Carries signed incident reports between national CERTs: broker and node" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

# The base's own pip and setuptools go, and what could bring them back. State directories exist so that new volumes
# belong to the user; nothing else does.
RUN rm -rf /usr/local/lib/python3.*/site-packages/* /usr/local/lib/python3.*/ensurepip /usr/local/bin/pip* \
           /usr/local/bin/idle* /usr/local/bin/wheel \
 && groupadd --gid 10001 kentongan \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/kentongan --shell /usr/sbin/nologin kentongan \
 && install -d -m 0755 /var/lib/kentongan \
 && install -d -m 0700 -o 10001 -g 10001 /var/lib/kentongan/broker /var/lib/kentongan/node /var/lib/kentongan/exchange
COPY --from=build /opt/kentongan /opt/kentongan

ENV PATH=/opt/kentongan/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/kentongan
EXPOSE 4222 8440 8480
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-I", "/opt/kentongan/libexec/healthcheck.py"]
ENTRYPOINT ["kentongan"]
CMD ["--help"]
