# For an NVIDIA GPU. docs/install.md, "Docker", has the commands.
# torch's wheels bring CUDA's libraries: the base needs Python alone.
FROM python:3.12-slim-bookworm

# Triton compiles the first layer's kernel with it; without it that layer runs in torch's own.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 extract \
    && mkdir /data /outputs /models \
    && chown extract:extract /outputs /models

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY extract extract
RUN pip install --no-cache-dir . && rm -rf /src/*

# Models are downloaded once if this folder is a volume.
ENV HF_HOME=/models
USER extract
WORKDIR /outputs
VOLUME ["/models"]
ENTRYPOINT ["python", "-m", "extract"]
CMD ["--help"]
