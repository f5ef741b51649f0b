# A node: `serve` by default; `migrate`, `audit` and `token` are there too. It needs DATABASE_URL and
# APPLAUSE_AUTH__SECRET (or each as a file, …_FILE), and a schema that `migrate` has made current.
# tests/ops/test_image.py runs these lines where no container engine is.

FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1
WORKDIR /build
# What changes rarely comes first, so that its layers are kept.
COPY ops/build.lock ops/node.lock ./
RUN python -m venv /opt/build && /opt/build/bin/pip install --quiet --require-hashes -r build.lock
RUN python -m venv --without-pip /opt/applause && /opt/build/bin/uv pip install --quiet --python /opt/applause \
    --require-hashes --only-binary :all: --compile-bytecode -r node.lock
COPY pyproject.toml README.md ./
COPY fanout fanout
COPY gateway gateway
COPY handlers handlers
COPY loadtest loadtest
COPY storage storage
RUN /opt/build/bin/python -m hatchling build --target wheel --directory dist \
    && /opt/build/bin/uv pip install --quiet --python /opt/applause --no-deps --offline --compile-bytecode dist/*.whl

FROM python:3.11-slim-bookworm
COPY --from=build /opt/applause /opt/applause
ENV PATH=/opt/applause/bin:$PATH \
    HOME=/tmp \
    APPLAUSE_DATA_DIR=/tmp/applause \
    APPLAUSE_SERVER__HOST=0.0.0.0 \
    APPLAUSE_SERVER__PORT=8080
USER 10001:10001
EXPOSE 8080
# Not /readyz: a node whose database is away keeps its phones, and shall not be replaced for it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", "import http.client, os, sys\nnode = http.client.HTTPConnection('127.0.0.1', int(os.environ['APPLAUSE_SERVER__PORT']), timeout=4)\nnode.request('GET', '/livez')\nsys.exit(node.getresponse().status != 200)"]
ENTRYPOINT ["applause"]
CMD ["serve"]
