"""Responses of a model that this process loads with Hugging Face transformers: the default without GPUs."""

from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ..errors import UserError, first_line
from ..inputs.chat import opened_thought, stop_tokens
from ..inputs.references import ModelRef
from ..recipe.sections import Generation
from ..system.files import digest
from . import Base, Completion, Launch, Request, positions_needed


class Backend(Base):
    """Batched `generate` of Hugging Face transformers."""

    def __init__(self, model: ModelRef, sampling: Generation, launch: Launch) -> None:
        super().__init__(model, sampling, launch)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        options: dict[str, Any] = {"revision": model.revision, "trust_remote_code": False}
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(model.resolved, padding_side="left", **options)
            self.loaded = AutoModelForCausalLM.from_pretrained(
                model.resolved, dtype=sampling.dtype, use_safetensors=True,
                device_map="auto" if torch.cuda.device_count() > 1 else self.device, **options,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise UserError(f"{model.ref}: cannot be loaded: {first_line(error)}") from error
        self.eos = sorted(stop_tokens(model, self.tokenizer.eos_token_id))
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token_id = next(iter(self.eos), 0)
        greedy = sampling.temperature == 0
        chosen = {} if greedy else {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        # Replaces the model's own config: values that a call leaves out would be filled from it, and
        # Qwen2.5-Instruct ships a repetition penalty that changes even greedy output.
        self.loaded.generation_config = GenerationConfig(
            max_new_tokens=sampling.max_tokens, do_sample=not greedy, repetition_penalty=1.0,
            eos_token_id=self.eos, pad_token_id=self.tokenizer.pad_token_id, **chosen,
        )  # fmt: skip

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield completions a batch at a time; prompts of like length share a batch."""
        encoded = sorted((self._encode(request) for request in requests), key=lambda entry: len(entry[1]))
        limit = getattr(self.loaded.config, "max_position_embeddings", None)
        positions_needed(max((len(ids) for _, ids, _ in encoded), default=0), self.sampling, limit)
        for start in range(0, len(encoded), self.sampling.batch_size):
            batch = encoded[start : start + self.sampling.batch_size]
            try:
                yield from self._complete_batch(batch)
            except RuntimeError as error:  # out of memory, mostly: the other batches can still succeed
                yield from (Completion(request_id, error=first_line(error)) for request_id, _, _ in batch)

    def numerics(self) -> dict[str, Any]:
        """Versions, device, dtype, attention and batch size, which sets the padding."""
        return {
            **{name: metadata.version(name) for name in ("transformers", "torch")},
            "dtype": self.sampling.dtype, "device": self.device, "batch_size": self.sampling.batch_size,
            "attention": self.loaded.config._attn_implementation,
        }  # fmt: skip

    def close(self) -> None:
        """Drop the weights."""
        del self.loaded

    def _encode(self, request: Request) -> tuple[str, list[int], str]:
        """The request's id, its prompt's tokens, and the thought that a chat template opens at its end."""
        chat = not request.raw and self.tokenizer.chat_template is not None
        render = self.tokenizer.apply_chat_template
        text = render(request.messages, tokenize=False, add_generation_prompt=True) if chat else request.text
        ids: list[int] = self.tokenizer(text, add_special_tokens=not chat)["input_ids"]
        return request.id, ids, opened_thought(text) if chat else ""

    def _complete_batch(self, batch: list[tuple[str, list[int], str]]) -> Iterator[Completion]:
        prompts = {"input_ids": [ids for _, ids, _ in batch]}
        padded = self.tokenizer.pad(prompts, return_tensors="pt").to(self.device)
        # By what is asked: the next batch, or the first one after a crash, must not repeat these answers.
        torch.manual_seed(int(digest([self.sampling.seed, batch[0][0]], 7), 16))
        with torch.inference_mode():
            output = self.loaded.generate(**padded)[:, padded["input_ids"].shape[1] :]
        for (request_id, prompt, opened), row in zip(batch, output.tolist(), strict=True):
            row = row[: self.sampling.room(len(prompt))]
            end = next((i for i, token in enumerate(row) if token in self.eos), None)
            text = self.tokenizer.decode(row[:end], skip_special_tokens=True)
            reason, tokens = ("length", len(row)) if end is None else ("stop", end + 1)
            yield Completion(request_id, opened + text, reason, len(prompt), tokens)
