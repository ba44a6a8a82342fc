# valt-uploader in a container. Build: docker build -t valt-uploader .
#
# Run it with the configuration, the password (owner 10001, mode 0400) and the recordings of the host. The recordings
# may be mounted ":ro" if after_upload = "keep":
#
#   docker run --detach --name valt-uploader --restart on-failure --stop-timeout 60 \
#     --read-only --tmpfs /tmp:size=16m,noexec,nosuid,nodev \
#     --cap-drop ALL --security-opt no-new-privileges --pids-limit 64 --memory 256m \
#     --volume valt-uploader-state:/var/lib/valt-uploader \
#     --volume /etc/valt-uploader/config.toml:/etc/valt-uploader/config.toml:ro \
#     --volume /etc/valt-uploader/password:/etc/valt-uploader/password:ro \
#     --volume /srv/recordings:/srv/recordings \
#     valt-uploader
#
# The base image is named by its tag, so that a build gets its security fixes. For reproducible builds, pin both FROM
# lines by digest: FROM python:3.13-slim@sha256:…

FROM python:3.13-slim AS build
WORKDIR /build
COPY requirements.txt requirements-dev.txt ./
# The build backend comes from the lock file too, and is not copied into the final image.
RUN python -m venv tools \
 && tools/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements-dev.txt
RUN python -m venv /opt/valt-uploader \
 && /opt/valt-uploader/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY uploader uploader
RUN tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheels . \
 && /opt/valt-uploader/bin/pip install --no-cache-dir --no-deps --no-index wheels/*.whl \
 && /opt/valt-uploader/bin/pip uninstall --yes pip

FROM python:3.13-slim
COPY --from=build /opt/valt-uploader /opt/valt-uploader
# A new volume gets the owner and mode of the folder that it is mounted on.
RUN install -d -m 0700 -o 10001 -g 10001 /var/lib/valt-uploader
VOLUME /var/lib/valt-uploader
USER 10001:10001
STOPSIGNAL SIGTERM
# The daemon answers over its socket in the state folder, so no port is needed; a daemon that hangs does not answer
# within the time. (Images in OCI format have no health check: podman and buildah keep it with --format docker.)
HEALTHCHECK --interval=1m --timeout=10s --start-period=30s \
  CMD ["/opt/valt-uploader/bin/valt-uploader", "status", "-c", "/etc/valt-uploader/config.toml", "--json"]
ENTRYPOINT ["/opt/valt-uploader/bin/valt-uploader"]
CMD ["run", "-c", "/etc/valt-uploader/config.toml"]
