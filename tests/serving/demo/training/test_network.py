import torch
from transformers import Qwen3VLMoeForConditionalGeneration

from serving.demo.batches import Chat, Row, collate, picture
from serving.demo.charts import draw_chart, draw_with
from serving.demo.dialogues import draw_exchange
from serving.demo.network import Network, patches
from serving.demo.parameters import EMBEDDINGS
from tests.serving.demo.training.conftest import Small


def test_the_forward_pass_equals_the_transformers_class(small: Small) -> None:
    rng = small.rng()
    chart = draw_chart(rng)
    seen_as = picture(chart, draw_with("pillow", chart, rng))
    chat, exchange = Chat(small.tokenizer), draw_exchange(chart, rng)
    rows, columns = (side // 32 for side in seen_as.pixels.shape[:2])
    row = Row(chat)
    row.add(chat.user, 0)
    row.image(rows, columns)
    row.exchange(exchange, 1, row.next)
    batch = collate(chat, [row], [seen_as], len(row.ids))

    network = Network(small.config, small.parameters)
    with torch.no_grad():
        pixels = patches(batch.pixels).float()
        seen = network.see(pixels, 2 * rows, 2 * columns, 1)
        hidden = network.read(batch.ids, batch.positions, batch.mask.float(), batch.image_places, seen)
        logits = hidden @ small.parameters[EMBEDDINGS].T

        model = Qwen3VLMoeForConditionalGeneration(small.config).float().eval()
        model.load_state_dict(small.parameters | {"lm_head.weight": small.parameters[EMBEDDINGS]}, strict=False)
        twice = pixels.view(-1, 3, 1, 256).expand(-1, 3, 2, 256).reshape(len(pixels[0]), -1)
        expected = model(
            input_ids=batch.ids,
            pixel_values=twice,
            image_grid_thw=torch.tensor([[1, 2 * rows, 2 * columns]]),
            mm_token_type_ids=(batch.ids == chat.image).long(),
            attention_mask=torch.ones_like(batch.ids),
        ).logits
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-3)
