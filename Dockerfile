# The serving image: no torch, no compiler, not root, a root file system that may be read-only. Targets: cpu (default), gpu.
#
#   docker build -t tercet .                                       with a Milvus: --build-arg EXTRAS=otel,milvus
#   docker run --read-only --tmpfs /tmp -v tercet:/data -e TERCET_API_KEYS=secret -p 8000:8000 tercet

ARG EXTRAS=otel
# Another image with Python 3.11, where Docker's own cannot be had.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS python
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

FROM python AS sources
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY media media
COPY evaluation evaluation
COPY export export
COPY index index
COPY service service

FROM sources AS build-cpu
ARG EXTRAS
RUN python -m venv --without-pip /opt/tercet \
 && pip --python /opt/tercet/bin/python install --no-cache-dir --disable-pip-version-check ".[cpu,$EXTRAS]" \
 && find /opt/tercet -type d -name tests -prune -exec rm -rf {} +

FROM sources AS build-gpu
ARG EXTRAS
RUN python -m venv --without-pip /opt/tercet \
 && pip --python /opt/tercet/bin/python install --no-cache-dir --disable-pip-version-check ".[gpu,$EXTRAS]" \
 && find /opt/tercet -type d -name tests -prune -exec rm -rf {} +

FROM python AS runtime
# Any other user may run it, too: such a one is of group 0.
RUN useradd --uid 10001 --create-home tercet && install -d -o tercet -g 0 -m 0775 /data
COPY bundles/default /bundles/default
ENV PATH=/opt/tercet/bin:$PATH TERCET_HOST=0.0.0.0 TERCET_DATA=/data TERCET_BUNDLE=/bundles/default
USER tercet
WORKDIR /data
VOLUME /data
EXPOSE 8000
# Unlike urllib, http.client does not ask a proxy of the environment.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "from http.client import HTTPConnection; c = HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
CMD ["python", "-m", "service"]

FROM runtime AS gpu
COPY --from=build-gpu /opt/tercet /opt/tercet
ENV TERCET_PROVIDER=cuda

FROM runtime AS cpu
COPY --from=build-cpu /opt/tercet /opt/tercet
