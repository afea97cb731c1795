"""Responses of a model that this process loads with Hugging Face transformers: the default without GPUs."""

from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

from ..errors import UserError
from ..inputs.chat import opened_thought
from ..inputs.references import ModelRef
from ..recipe.sections import Generation
from . import Completion, Launch, Request, check_positions


class Backend:
    """Batched `generate` of Hugging Face transformers."""

    def __init__(self, model: ModelRef, sampling: Generation, launch: Launch) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        self.sampling, self.batch_size = sampling, sampling.batch_size
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        options: dict[str, Any] = {"revision": model.revision, "trust_remote_code": False}
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(model.resolved, padding_side="left", **options)
            loaded = AutoModelForCausalLM.from_pretrained(
                model.resolved, dtype=sampling.dtype, use_safetensors=True,
                device_map="auto" if torch.cuda.device_count() > 1 else self.device, **options,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise UserError(f"{model.ref}: cannot be loaded: {str(error).strip().splitlines()[0]}") from error
        self.model = loaded.eval()
        shipped = self.model.generation_config.eos_token_id
        ends = [*(shipped if isinstance(shipped, list) else [shipped]), self.tokenizer.eos_token_id]
        self.eos = sorted({end for end in ends if end is not None})
        self.pad = next(id for id in (self.tokenizer.pad_token_id, *self.eos, 0) if id is not None)
        greedy = sampling.temperature == 0
        chosen = {} if greedy else {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        # Replaces the model's own config: values that a call leaves out would be filled from it, and
        # Qwen2.5-Instruct ships a repetition penalty that changes even greedy output.
        self.model.generation_config = GenerationConfig(
            max_new_tokens=sampling.max_tokens, do_sample=not greedy, repetition_penalty=1.0,
            eos_token_id=self.eos, pad_token_id=self.pad, **chosen,
        )  # fmt: skip

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield completions a batch at a time; prompts of like length share a batch."""
        encoded = [(request.id, *self._encode(request)) for request in requests]
        encoded.sort(key=lambda entry: len(entry[1]))
        limit = getattr(self.model.config, "max_position_embeddings", None)
        check_positions(max((len(ids) for _, ids, _ in encoded), default=0), self.sampling.max_tokens, limit)
        for start in range(0, len(encoded), self.batch_size):
            batch = encoded[start : start + self.batch_size]
            try:
                yield from self._complete_batch(batch, start)
            except RuntimeError as error:  # out of memory, mostly: the other batches can still succeed
                reason = str(error).splitlines()[0]
                yield from (Completion(request_id, error=reason) for request_id, _, _ in batch)

    def numerics(self) -> dict[str, Any]:
        """Versions, device, dtype, attention and batch size, which sets the padding."""
        return {
            **{name: metadata.version(name) for name in ("transformers", "torch")},
            "dtype": self.sampling.dtype, "device": self.device, "batch_size": self.batch_size,
            "attention": self.model.config._attn_implementation,
        }  # fmt: skip

    def close(self) -> None:
        """Drop the weights."""
        del self.model

    def _encode(self, request: Request) -> tuple[list[int], str]:
        """The prompt's tokens, and the thought that a chat template opens at its end."""
        text, templated = request.text, request.raw is None and self.tokenizer.chat_template is not None
        if templated:
            text = self.tokenizer.apply_chat_template(
                request.messages, tokenize=False, add_generation_prompt=True
            )
        ids: list[int] = self.tokenizer(text, add_special_tokens=not templated)["input_ids"]
        return ids, opened_thought(text) if templated else ""

    def _complete_batch(self, batch: list[tuple[str, list[int], str]], start: int) -> Iterator[Completion]:
        import torch

        width = max(len(ids) for _, ids, _ in batch)
        blanks = [width - len(ids) for _, ids, _ in batch]
        padded = [[self.pad] * blank + ids for blank, (_, ids, _) in zip(blanks, batch, strict=True)]
        mask = [[0] * blank + [1] * (width - blank) for blank in blanks]
        torch.manual_seed(self.sampling.seed + start)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=torch.tensor(padded, device=self.device),
                attention_mask=torch.tensor(mask, device=self.device),
            )
        for (request_id, prompt, opened), row in zip(batch, output[:, width:].tolist(), strict=True):
            end = next((i for i, token in enumerate(row) if token in self.eos), None)
            text = self.tokenizer.decode(row[:end], skip_special_tokens=True)
            reason, tokens = ("length", len(row)) if end is None else ("stop", end + 1)
            yield Completion(request_id, opened + text, reason, len(prompt), tokens)
