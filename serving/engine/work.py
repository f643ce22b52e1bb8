"""What a generation costs an engine, in the units by which it is let through and spread over replicas."""

from serving.generation import Generation, ImageContent, Text, VideoContent

PIXELS_PER_TOKEN = 32 * 32
BASE_TOKENS = 512
"""What a generation weighs beside its images: about what reading a prompt and writing an answer of 300 tokens takes."""


def pixels(generation: Generation) -> int:
    """Pixels of all images and videos as the model sees them; as they were sent where that is not known."""
    total = 0
    for message in generation.messages:
        for part in message.parts:
            if not isinstance(part, Text) and part.content is not None:
                total += seen(part.content)
    return total


def weight(generation: Generation) -> int:
    """In tokens of input, roughly: what an engine has to do for it."""
    return BASE_TOKENS + pixels(generation) // PIXELS_PER_TOKEN


def seen(content: ImageContent | VideoContent) -> int:
    """Pixels of one image or video as the model sees it."""
    if content.tokens is not None:
        return content.tokens * PIXELS_PER_TOKEN
    if isinstance(content, VideoContent):
        return sum(seen(frame) for frame in content.frames)
    return content.width * content.height
