"""A model for Triton's Python backend with the inputs and outputs of its vLLM backend: it says what it was asked.

It tells the number of images in the prompt, the size of each, and the parameters, word by word. "wait" in the prompt
holds it until it is cancelled, "fail" has it fail as the vLLM backend does.
"""

import base64
import json
import struct
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def read(request: Any, name: str, default: Any = None) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy()


def size(encoded: bytes) -> tuple[int, ...]:
    return struct.unpack(">II", base64.b64decode(encoded)[16:24])


class TritonPythonModel:
    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            threading.Thread(target=self.answer, args=(request, request.get_response_sender())).start()

    def answer(self, request: Any, sender: Any) -> None:
        prompt = read(request, "text_input")[0].decode()
        asked = json.loads(read(request, "sampling_parameters", [b"{}"])[0])
        assert bool(read(request, "stream", [False])[0]), "asked without stream"
        images = ["x".join(map(str, size(each))) for each in read(request, "image", [])]
        if "fail" in prompt:
            error = pb_utils.TritonError(
                "Error generating stream: The prompt is longer than the maximum model length of 4096."
            )
            sender.send(pb_utils.InferenceResponse(output_tensors=[self.text(["N/A"])], error=error), flags=FINAL)
            return
        n = int(asked.get("n", 1))
        words = [f"{prompt.count('<|image_pad|>')} images", *images, json.dumps(asked, sort_keys=True)]
        limit = asked.get("max_tokens", 16)
        for number, word in enumerate(words[:limit], 1):
            last = number == min(len(words), limit)
            reason = ("length" if limit < len(words) else "stop") if last else "None"
            sender.send(self.piece([word + " "] * n, reason, n, len(prompt)), flags=FINAL if last else 0)
            while "wait" in prompt:
                if sender.is_cancelled():
                    pb_utils.Logger.log_info("the request was cancelled")
                    error = pb_utils.TritonError("Request was cancelled", pb_utils.TritonError.CANCELLED)
                    sender.send(pb_utils.InferenceResponse(error=error), flags=FINAL)
                    return
                time.sleep(0.05)

    def text(self, texts: Sequence[str]) -> Any:
        return pb_utils.Tensor("text_output", np.asarray([each.encode() for each in texts], dtype=np.object_))

    def piece(self, texts: Sequence[str], reason: str, n: int, length: int) -> Any:
        return pb_utils.InferenceResponse(
            output_tensors=[
                self.text(texts),
                pb_utils.Tensor("finish_reason", np.asarray([reason] * n, dtype=np.object_)),
                pb_utils.Tensor("num_input_tokens", np.asarray([length], dtype=np.uint32)),
                pb_utils.Tensor("num_output_tokens", np.asarray([1] * n, dtype=np.uint32)),
            ]
        )
