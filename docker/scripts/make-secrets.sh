#!/bin/sh
# Makes the secrets that the Compose files mount, each a file of random letters; what is there already is left alone.
#   sh docker/scripts/make-secrets.sh docker/secrets
set -eu
folder=${1:?name the folder, like docker/secrets}
umask 022
mkdir -p "$folder"
# Containers run as users of their own and have to read the files; the folder keeps everybody else on the machine out.
chmod 0711 "$folder"
cd "$folder"

random() { head -c 48 /dev/urandom | base64 | tr -dc 'A-Za-z0-9' | head -c 32; }
make() { [ -s "$1" ] || printf '%s' "$2" >"$1"; }

make engine_key "$(random)"
make postgres_password "$(random)"
make redis_password "$(random)"
make minio_user homescope
make minio_password "$(random)"
make grafana_password "$(random)"
make rabbitmq_password "$(random)"
make database_url "postgresql://homescope:$(cat postgres_password)@postgres/homescope"
make broker_url "amqp://homescope:$(cat rabbitmq_password)@rabbitmq:5672/"
make redis_url "redis://:$(cat redis_password)@redis:6379/0"
make rabbitmq_definitions "{\"users\":[{\"name\":\"homescope\",\"password\":\"$(cat rabbitmq_password)\",\"tags\":[\"administrator\"]}],\"vhosts\":[{\"name\":\"/\"}],\"permissions\":[{\"user\":\"homescope\",\"vhost\":\"/\",\"configure\":\".*\",\"write\":\".*\",\"read\":\".*\"}]}"
# The key of the workers comes from the gateway; until then the file is empty, which they say.
touch api_key
echo "secrets are in $PWD: keep them out of version control, and in your backups" >&2
