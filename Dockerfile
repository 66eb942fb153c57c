# syntax=docker/dockerfile:1
# One image for apply, ingest, history and serve: the command says which.
#   docker build --target runtime -t featureflow .                                  CPU
#   docker build --target runtime --build-arg EXTRA=gpu -t featureflow:gpu .        CUDA

FROM python:3.13-slim AS build
ARG EXTRA=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/featureflow
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY featureflow featureflow
COPY migrations migrations
RUN /opt/featureflow/bin/pip install ".[${EXTRA},frames,otel,avro,protobuf,s3]"

FROM python:3.13-slim AS runtime
RUN useradd --create-home --uid 10001 featureflow && mkdir /project && chown featureflow /project
COPY --from=build /opt/featureflow /opt/featureflow
ENV PATH=/opt/featureflow/bin:$PATH PYTHONUNBUFFERED=1
USER featureflow
WORKDIR /project
VOLUME /project
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["featureflow"]
CMD ["serve"]
