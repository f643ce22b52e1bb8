#!/bin/sh
# Secrets by file: where NAME_FILE names a file, NAME becomes what is in it, for the command that follows.
#   HOMESCOPE_ENGINE_KEY_FILE=/run/secrets/engine_key with-secrets homescope-server run
set -eu
for name in HOMESCOPE_DATABASE HOMESCOPE_REDIS_URL HOMESCOPE_CACHE HOMESCOPE_ENGINE_KEY \
    AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY VLLM_API_KEY DASHSCOPE_API_KEY HF_TOKEN \
    PIPELINE_BROKER PIPELINE_DATABASE; do
    eval "file=\${${name}_FILE:-}"
    [ -n "$file" ] || continue
    if ! value=$(cat "$file" 2>/dev/null) || [ -z "$value" ]; then
        echo "with-secrets: ${name}_FILE=$file is empty or cannot be read; mount the secret there, or take ${name}_FILE away" >&2
        exit 2
    fi
    export "$name=$value"
    unset "${name}_FILE"
done
exec "$@"
