#!/bin/sh
# Starts vLLM on GPUs the way homescope wants it, once what it needs is there: what is missing is said in a line, and not
# by a traceback after minutes. Runs in vLLM's own image; arguments are further flags of `vllm serve`.
#   MODEL              folder of the weights, /models/Qwen3-VL-30B-A3B-Instruct
#   TENSOR_PARALLEL    over how many GPUs of a node the weights are spread, 1
#   DATA_PARALLEL      how many such groups the container runs as one replica, 1
#   NODES              over how many nodes the layers are spread, 1
#   MAX_MODEL_LEN      tokens of the longest request with its answer, 32768
#   MAX_NUM_SEQS, MAX_BATCHED_TOKENS, API_SERVERS   256, 16384 and 4 are for GPUs of 70 GiB and more
set -eu

MODEL=${MODEL:-/models/Qwen3-VL-30B-A3B-Instruct}
TENSOR_PARALLEL=${TENSOR_PARALLEL:-1}
DATA_PARALLEL=${DATA_PARALLEL:-1}
NODES=${NODES:-1}

fail() {
    echo "engine: $*" >&2
    exit 2
}

[ -f "$MODEL/config.json" ] ||
    fail "there are no weights in $MODEL (no config.json): mount the volume that has them at /models, and fill it as docs/deploy.md shows"

# A download that was cut off leaves an index that names files which are not there.
if [ -f "$MODEL/model.safetensors.index.json" ]; then
    for shard in $(grep -o '[^"/]*\.safetensors' "$MODEL/model.safetensors.index.json" | sort -u); do
        [ -s "$MODEL/$shard" ] || fail "$MODEL/$shard is missing: the download of the weights is not complete, run it again"
    done
fi

gpus=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null) ||
    fail "no NVIDIA GPU is visible (nvidia-smi fails): install the driver and the NVIDIA container toolkit, and give the container GPUs"
count=$(printf '%s\n' "$gpus" | wc -l)
wanted=$((TENSOR_PARALLEL * DATA_PARALLEL))
[ "$count" -ge "$wanted" ] ||
    fail "TENSOR_PARALLEL=$TENSOR_PARALLEL x DATA_PARALLEL=$DATA_PARALLEL want $wanted GPUs, the container has $count: give it more, or lower them"

# The weights, 3.5 GiB of activations and one context of 8k, in the 92 % that vLLM may take.
weights=$(du -smL "$MODEL" | cut -f1)
needed=$(((weights / TENSOR_PARALLEL / NODES + 3584 + 768) * 100 / 92))
smallest=$(printf '%s\n' "$gpus" | sort -n | head -n 1)
[ "$smallest" -ge "$needed" ] ||
    fail "the weights in $MODEL need $needed MiB on each of $TENSOR_PARALLEL GPU(s), the smallest has $smallest MiB: take the FP8 weights, or raise TENSOR_PARALLEL"

# The other nodes of a replica compute, and have no servers.
case " $* " in *" --headless "*) API_SERVERS=0 ;; esac

# The gateway fetches images and brings them to size; the engine gets bytes and a name for each, and fetches nothing.
exec vllm serve "$MODEL" \
    --host 0.0.0.0 --port 8000 \
    --served-model-name qwen3-vl-30b qwen3-vl-30b-a3b-instruct Qwen/Qwen3-VL-30B-A3B-Instruct \
    --tensor-parallel-size "$TENSOR_PARALLEL" --data-parallel-size "$DATA_PARALLEL" --pipeline-parallel-size "$NODES" \
    --max-model-len "${MAX_MODEL_LEN:-32768}" \
    --gpu-memory-utilization 0.92 \
    --max-num-seqs "${MAX_NUM_SEQS:-256}" \
    --max-num-batched-tokens "${MAX_BATCHED_TOKENS:-16384}" \
    --api-server-count "${API_SERVERS:-4}" \
    --enable-prompt-tokens-details \
    --scheduling-policy priority \
    --limit-mm-per-prompt '{"image": 250, "video": 64}' \
    --media-io-kwargs '{"video": {"num_frames": -1}}' \
    --trust-request-mm-kwargs \
    --enable-auto-tool-choice --tool-call-parser hermes \
    --allowed-media-domains none.invalid \
    --shutdown-timeout 310 \
    --disable-uvicorn-access-log --disable-fastapi-docs \
    "$@"
