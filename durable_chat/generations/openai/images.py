"""
OpenAI's images.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from durable_chat.errors import InvalidRequest
from durable_chat.generations.inputs import ImageInput
from durable_chat.generations.limits import ImageLimits
from durable_chat.generations.media import Media
from durable_chat.generations.openai.adapters import OpenAIAdapter
from durable_chat.generations.results import GeneratedImage, ImageResult, Usage
from durable_chat.models.base import ProviderError
from durable_chat.models.pictures import picture_of
from durable_chat.models.providers import failures
from durable_chat.transcripts.attachments import decode_base64

MODEL_DEFAULT = "gpt-image-1"

_GPT_IMAGE = ImageLimits(
    sizes=("1024x1024", "1536x1024", "1024x1536", "auto"),
    references_max=16,
    options={
        "quality": ("low", "medium", "high", "auto"),
        "background": ("transparent", "opaque", "auto"),
        "output_format": ("png", "jpeg", "webp"),
        "moderation": ("low", "auto"),
    },
)
_DALL_E_3 = ImageLimits(
    sizes=("1024x1024", "1792x1024", "1024x1792"),
    images_max=1,
    prompt_chars_max=4000,
    options={"quality": ("standard", "hd"), "style": ("vivid", "natural")},
)
_DALL_E_2 = ImageLimits(sizes=("256x256", "512x512", "1024x1024"), prompt_chars_max=1000)


class OpenAIImages(OpenAIAdapter):
    """Images of OpenAI: `gpt-image-1` and its successors, `dall-e-3`, `dall-e-2`, or a model of a compatible server."""

    def __init__(self, model: str = MODEL_DEFAULT, *, key: str | None = None, base_url: str | None = None) -> None:
        super().__init__(model, key=key, base_url=base_url)
        self.limits = limits_of(model)

    async def generate(self, request: ImageInput, /) -> ImageResult:
        """Draw, or change the pictures of the prompt. Raises ProviderError."""
        asked: dict[str, Any] = {"model": self.model, "prompt": request.prompt, "n": request.count, **request.options}
        if request.size is not None:
            asked["size"] = request.size
        if self.model.startswith("dall-e"):
            asked["response_format"] = "b64_json"
        if request.references:
            asked["image"] = [
                (f"picture-{at}.{media.extension}", media.data, media.media_type)
                for at, media in enumerate(request.references)
            ]
            found, usage = await self.ask(lambda client: client.images.edit(**asked), _read)
        else:
            found, usage = await self.ask(lambda client: client.images.generate(**asked), _read)
        if not found:
            raise ProviderError("The AI provider answered without a picture.", "no_result")
        images = [await _image(*each) for each in found]
        return ImageResult(f"img-{uuid.uuid4().hex}", self.model, tuple(images), usage)


Found = tuple[str | None, str | None, str | None]
"""A picture: its base64, its address, and the prompt that was drawn."""


def _read(answer: Any) -> tuple[list[Found], Usage | None]:
    used = answer.usage
    usage = None if used is None else Usage(used.input_tokens, used.output_tokens, used.total_tokens)
    return [(each.b64_json, each.url, each.revised_prompt) for each in answer.data or ()], usage


def limits_of(model: str) -> ImageLimits:
    """Return what a model takes. The model of another server has the limits of any model."""
    if model.startswith("gpt-image"):
        return _GPT_IMAGE
    return {"dall-e-3": _DALL_E_3, "dall-e-2": _DALL_E_2}.get(model, ImageLimits())


async def _image(encoded: str | None, url: str | None, revised_prompt: str | None) -> GeneratedImage:
    if not encoded:
        return GeneratedImage(None, url, revised_prompt)
    try:
        data = await asyncio.to_thread(decode_base64, encoded)
    except InvalidRequest as error:
        raise ProviderError(*failures.FAILED) from error
    picture = picture_of(data)
    return GeneratedImage(Media(data, picture.media_type if picture else "image/png"), None, revised_prompt)
