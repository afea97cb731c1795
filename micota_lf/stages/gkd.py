"""The program of a step that distils: TRL's GKDTrainer on `distil.yaml` (stages/distil.py renders it).

    python -m micota_lf.stages.gkd distil.yaml

It goes on from the last checkpoint, and leaves the same files as LLaMA-Factory: weights, `trainer_log.jsonl`,
`all_results.json`, `trainer_state.json`.
"""

import sys
from pathlib import Path

import yaml


def main(path: str) -> None:
    """Distil as a file says."""
    from datasets import Dataset
    from llamafactory.train.callbacks import LogCallback
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.gkd_config import GKDConfig
    from trl.trainer.gkd_trainer import GKDTrainer

    given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    arguments = GKDConfig(**given["arguments"])
    # What is trained is in 32 bits, as LLaMA-Factory has it; the teacher only looks.
    student = AutoModelForCausalLM.from_pretrained(given["student"], dtype="float32")
    teacher = AutoModelForCausalLM.from_pretrained(
        given["teacher"], dtype="bfloat16" if arguments.bf16 else "float32"
    )
    trainer = GKDTrainer(
        student,
        teacher,
        arguments,
        train_dataset=Dataset.from_json(given["conversations"]),
        processing_class=AutoTokenizer.from_pretrained(given["student"]),
        callbacks=[LogCallback()],
    )
    begun = any(Path(given["arguments"]["output_dir"]).glob("checkpoint-*"))
    result = trainer.train(resume_from_checkpoint=begun)
    trainer.save_model()
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()


if __name__ == "__main__":
    main(sys.argv[1])
