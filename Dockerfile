# Two stages: the engine is compiled in the first, the second has no compiler.
FROM python:3.12-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python -m venv /opt/tampah
COPY pyproject.toml setup.py README.md LICENSE ./
COPY resolver resolver
RUN /opt/tampah/bin/pip install --no-cache-dir .

FROM python:3.12-slim-bookworm
RUN useradd --system --uid 5353 --home-dir /var/lib/tampah tampah \
    && install -d -o tampah -g tampah /var/lib/tampah /etc/tampah
COPY --from=build /opt/tampah /opt/tampah
COPY blocklists /etc/tampah/blocklists
# The default config, but open to the container's network and with its state in the volume.
COPY config.yaml /etc/tampah/config.yaml
RUN sed -i -e 's|^  dns: .*|  dns: ["0.0.0.0:5335", "[::]:5335"]|' -e 's|^state_dir: .*|state_dir: /var/lib/tampah|' \
    /etc/tampah/config.yaml \
    && /opt/tampah/bin/tampah check -c /etc/tampah/config.yaml
USER tampah
VOLUME /var/lib/tampah
EXPOSE 5335/udp 5335/tcp
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["/opt/tampah/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8053/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/tampah/bin/tampah"]
CMD ["run", "-c", "/etc/tampah/config.yaml"]
