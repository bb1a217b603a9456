# The zoo and its command, on a CPU; for CUDA, take torch's other wheels (the driver is the host's):
#
#   docker build --tag vae-zoo .
#   docker build --tag vae-zoo:cuda --build-arg TORCH=cu130 .
#   docker run --rm -v "$PWD:/work" vae-zoo train --config quickstart
#   docker run --rm --gpus all -v "$PWD:/work" vae-zoo:cuda train --config mlp_mnist
FROM python:3.11-slim

ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

# torch first: a change of the zoo's own files leaves this layer as it is.
COPY constraints.txt /src/
RUN pip install --constraint /src/constraints.txt torch torchvision --index-url "https://download.pytorch.org/whl/${TORCH}" \
    --extra-index-url https://pypi.org/simple

COPY pyproject.toml README.md LICENSE /src/
COPY zoo /src/zoo
COPY configs /src/configs
RUN pip install --constraint /src/constraints.txt '/src[data,tensorboard]'

# Runs, data and the cache of decoded images stay outside, where the container's user may write.
RUN useradd --create-home zoo
USER zoo
WORKDIR /work
ENV DATA_ROOT=/work/data VAE_ZOO_CACHE=/work/.cache/vae-zoo
ENTRYPOINT ["vae-zoo"]
CMD ["--help"]
