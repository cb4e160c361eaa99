# syntax=docker/dockerfile:1
# docker build -t durable-chat .
# docker run -p 127.0.0.1:4437:4437 -v durable-chat:/data --env-file secrets.env durable-chat
#
# secrets.env holds DURABLE_CHAT_TOKEN_SECRET, which guards the chat, and DS_SECRET, which guards the protocol's routes:
# a server that other machines can reach does not start without them.

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY requirements requirements
COPY durable_chat durable_chat
COPY migrations migrations
# The same pinned versions, with their hashes, as scripts/install takes.
RUN python -m venv /opt/durable-chat \
    && /opt/durable-chat/bin/pip install --no-cache-dir --require-hashes --requirement requirements/runtime.txt \
    && /opt/durable-chat/bin/pip install --no-cache-dir --require-hashes --requirement requirements/build.txt \
    && /opt/durable-chat/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /data --create-home durable-chat
COPY --from=build /opt/durable-chat /opt/durable-chat
ENV PATH=/opt/durable-chat/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DURABLE_CHAT_HOST=0.0.0.0 \
    DURABLE_CHAT_STORE=sqlite:////data/durable-chat.db
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 4437
# The image has no curl.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:4437/readyz', timeout=2)"]
# A server that is told to stop gives running answers DURABLE_CHAT_GRACE_S, 30 s; Docker waits for 10 s unless it is told otherwise:
# docker stop --time 60, or stop_grace_period in compose.yaml.
STOPSIGNAL SIGTERM
ENTRYPOINT ["durable-chat"]
CMD ["serve"]
