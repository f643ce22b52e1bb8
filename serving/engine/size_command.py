"""`homescope-server size`."""

from __future__ import annotations

import math
import re
from typing import cast

import click

from serving.console import give_up
from serving.engine import sizing
from serving.engine.sizing import CARDS, DoesNotFit, Precision, Request, Size
from serving.media.policy import CLOUD_IMAGE
from serving.media.tokens import grid, image_tokens


@click.command()
@click.option("--gpu", type=click.Choice(tuple(CARDS), case_sensitive=False), default="H200", show_default=True)
@click.option("--rate", type=click.FloatRange(min=0.001), required=True, help="requests a second, on average")
@click.option("--image", "images", multiple=True, metavar="WIDTHxHEIGHT", help="pixels; once for each in a request")
@click.option("--text", type=click.IntRange(0), default=200, show_default=True, help="tokens of text in a request")
@click.option("--output", type=click.IntRange(1), default=300, show_default=True, help="tokens of an answer")
@click.option("--precision", type=click.Choice(["bf16", "fp8"]), help="of the weights; default: what the GPU fits best")
@click.option(
    "--measured", type=click.FloatRange(min=0.001), help="requests a second that one replica was found to answer"
)
def size(
    gpu: str,
    rate: float,
    images: tuple[str, ...],
    text: int,
    output: int,
    precision: str | None,
    measured: float | None,
) -> None:
    """How many replicas of which GPU a load wants, how to start them, and what to expect.

    An estimate by a model of the hardware; measure one replica under your own load, and give what you found as
    --measured.
    """
    if not math.isfinite(rate):
        raise click.BadParameter("it is no number of requests a second", param_hint="--rate")
    request = Request(sum(map(vision_tokens, images)), text, output)
    card = CARDS[gpu.upper() if gpu.upper() in CARDS else gpu]
    chosen = cast(Precision, precision or ("fp8" if card.fp8 and card.memory_gib < 100 else "bf16"))
    try:
        found = sizing.size(card, request, rate, chosen, measured=measured)
    except DoesNotFit as reason:
        give_up(str(reason))
    click.echo(told(found, request, rate, measured))


def vision_tokens(image: str) -> int:
    """Of an image of WIDTHxHEIGHT pixels under the default pixel policy."""
    match = re.fullmatch(r"(\d+)x(\d+)", image.lower())
    if match is None or not int(match[1]) or not int(match[2]):
        raise click.BadParameter(f"{image!r} is not of the form WIDTHxHEIGHT, like 1280x1664", param_hint="--image")
    return image_tokens(grid((int(match[1]), int(match[2])), CLOUD_IMAGE))


def told(found: Size, request: Request, rate: float, measured: float | None) -> str:
    cards = found.replicas * found.cards_per_replica
    several = "s" if found.replicas > 1 else ""
    gpus = "GPUs" if cards > 1 else "GPU"
    together = "\n  the cards of a replica share its work evenly, and talk about it in no time" * (
        found.cards_per_replica > 1
    )
    asked = rate / found.replicas
    servers = (
        f"{sizing.API_SERVERS} API servers prepare {sizing.PAGES_PER_SERVER:.0f} pages of 2 megapixels a second each"
    )
    model = "Qwen3-VL-30B-A3B-Instruct" + ("-FP8" if found.precision == "fp8" else "")
    capacity = "measured" if measured else f"bound by {found.limit}"
    return f"""\
{found.replicas} replica{several} of {found.cards_per_replica} x {found.card.name}, {cards} {gpus} in all: {model}
  a replica answers   {_short(found.rate_per_replica)} requests/s at most ({capacity}); it is asked {_short(asked)}
  in flight           {found.in_flight} of at most {found.max_in_flight}; room for {found.kv_tokens:,} tokens of context
  first token         {found.first_token_s * 1e3:.0f} ms
  answer              {found.mean_s:.1f} s on average, {found.p99_s:.1f} s at p99
  images              {request.vision} vision tokens a request, {rate * request.vision:,.0f} a second

start each with (docker/scripts/vllm.sh)
  MODEL=/models/{model} TENSOR_PARALLEL={found.cards_per_replica} MAX_MODEL_LEN={found.max_context} \
MAX_NUM_SEQS={found.max_in_flight} API_SERVERS={sizing.API_SERVERS}
and the gateways with
  HOMESCOPE_MAX_IN_FLIGHT={found.replicas * found.max_in_flight}

assumed
  {sizing.MFU:.0%} of the card's arithmetic and {sizing.BANDWIDTH_SHARE:.0%} of its bandwidth are reached{together}
  a replica is asked {sizing.UTILISATION:.0%} of what it can answer; the rest is for bursts
  requests come at random (Poisson) and are all of this size; no image and no prompt comes twice
  p99 is the time when as many are in flight as are 1 % of the time; queues at the gateway are empty
  {servers}, on cores of their own
  not measured on this card by this project: try one replica under your load, then give --measured"""


def _short(rate: float) -> str:
    return f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"
