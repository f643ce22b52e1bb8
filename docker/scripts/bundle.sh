#!/bin/sh
# Collects what a machine without a network needs: images, the wheels of every lock, weights; with a list of hashes.
#   sh docker/scripts/bundle.sh FOLDER [WEIGHTS_FOLDER]
# There: sha256sum --check --quiet SHA256SUMS, then docker load --input images/NAME.tar, and
# pip install --no-index --find-links wheels --require-hashes -r locks/serving.txt
# IMAGES names other images than those of the Compose files; it may be empty. PYTHON is the Python to collect wheels for.
set -eu
folder=${1:?name the folder to fill, like /media/disk/homescope}
weights=${2:-}
cd "$(dirname "$0")/../.."
mkdir -p "$folder/wheels" "$folder/images" "$folder/locks"

fail() {
    echo "bundle: $*" >&2
    exit 1
}

if [ -z "${IMAGES+set}" ]; then
    # The defaults of ${NAME:-image} and plain names.
    IMAGES=$(sed -n 's/^ *image: *//p' docker/compose*.yaml | sed 's/^\${[A-Z_]*:-\(.*\)}$/\1/' | sort -u)
fi
for image in $IMAGES; do
    echo "bundle: $image" >&2
    docker image inspect "$image" >/dev/null 2>&1 || docker pull --quiet "$image" >/dev/null ||
        fail "$image is neither here nor to be pulled; build ours first (docker compose -f docker/compose.yaml -f docker/compose.full.yaml --profile workers build)"
    docker save --output "$folder/images/$(echo "$image" | tr '/:@' '___').tar" "$image"
    docker image inspect --format "$image {{.Id}}" "$image" >>"$folder/images.new"
done
[ ! -f "$folder/images.new" ] || mv "$folder/images.new" "$folder/images.txt"

for lock in ${LOCKS:-serving documents}; do
    cp "locks/$lock.txt" "$folder/locks/"
    "${PYTHON:-python3}" -m pip download --quiet --no-deps --require-hashes --only-binary :all: \
        --dest "$folder/wheels" -r "locks/$lock.txt" || fail "wheels of locks/$lock.txt are missing; the lines above say which"
done
"${PYTHON:-python3}" -m pip wheel --quiet --no-deps --wheel-dir "$folder/wheels" .

if [ -n "$weights" ]; then
    [ -f "$weights/config.json" ] || fail "there are no weights in $weights (no config.json)"
    mkdir -p "$folder/models"
    cp -RL "$weights" "$folder/models/"
fi
mkdir -p "$folder/source"
cp -R docker k8s docs "$folder/source/"
rm -rf "$folder/source/docker/secrets"

cd "$folder"
find . -type f ! -name SHA256SUMS | sort | xargs -d '\n' sha256sum >SHA256SUMS
echo "bundle: $(wc -l <SHA256SUMS) files, $(du -sh . | cut -f1) in $folder" >&2
