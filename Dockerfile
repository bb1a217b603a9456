# The zoo and its command. As it is, with CUDA (the driver is the host's); for a CPU alone, which takes a tenth of the room,
# with the index of torch's CPU wheels that pytorch.org names:
#
#   docker build --tag vae-zoo .
#   docker build --tag vae-zoo:cpu --build-arg PIP_EXTRA_INDEX_URL=INDEX .
#   docker run --rm --gpus all -v "$PWD:/zoo" vae-zoo train --config mlp_mnist
#   docker run --rm -v "$PWD:/zoo" vae-zoo:cpu train --config quickstart
FROM python:3.11-slim

ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

# torch first: a change of the zoo's own files leaves this layer as it is.
COPY constraints.txt /src/
RUN pip install --constraint /src/constraints.txt torch torchvision

COPY pyproject.toml README.md LICENSE /src/
COPY zoo /src/zoo
COPY configs /src/configs
RUN pip install --constraint /src/constraints.txt '/src[data,tensorboard]'

# Runs, data and the cache of decoded images stay outside, where the container's user may write.
RUN useradd --create-home zoo
USER zoo
WORKDIR /zoo
ENV DATA_ROOT=/zoo/data VAE_ZOO_CACHE=/zoo/.cache/vae-zoo
ENTRYPOINT ["vae-zoo"]
CMD ["--help"]
