# An image for CPUs. docs/installing.md shows how to build and run it.
FROM python:3.12.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE models.yaml ./
COPY stemsplit stemsplit
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12.11-slim-bookworm
# The CPU build of PyTorch that the tests run with: without CUDA's libraries the image is some gigabytes smaller.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.13.0
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl
# Models are kept in a volume that any user may write, since `docker run --user` chooses the user.
ENV HF_HOME=/models/huggingface STEMSPLIT_CACHE=/models/stemsplit
RUN useradd --create-home stemsplit && mkdir --mode=1777 /models
VOLUME /models
WORKDIR /music
USER stemsplit
RUN stemsplit --help
ENTRYPOINT ["stemsplit"]
CMD ["--help"]
