"""Run by test_for_transformers.py, with transformers and torch and without genome-lm: opens folders, and trains."""

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

sys.modules["genome_lm"] = None  # type: ignore[assignment]  # so that importing it is an error
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def opened(folder: Path, kind: str = "") -> nn.Module:
    return getattr(transformers, f"AutoModel{kind}").from_pretrained(folder, trust_remote_code=True).eval()


def largest_difference(folder: Path) -> dict[str, float]:
    """Between what a folder gives and what genome-lm gave, of logits and of classes, padded on either side."""
    expected = torch.load(folder.with_suffix(".pt"))
    ids, inside = expected["ids"], expected["ids"] != 4
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    logits = opened(folder, "ForCausalLM" if config.is_decoder else "ForMaskedLM")(ids).logits
    classifier = opened(folder, "ForSequenceClassification")
    left = torch.cat([ids.new_full((len(ids), 5), 4), ids], dim=1)[:, : config.max_position_embeddings]
    classes = [classifier(each, attention_mask=(each != 4).long()).logits for each in (ids, left)]
    states = opened(folder)(ids).last_hidden_state
    assert states.shape == (*ids.shape, config.hidden_size)

    def off(a: Tensor, b: Tensor) -> float:
        return float((a - b).abs().max())

    return {
        "logits": off(logits[inside], expected["logits"][inside]),
        "classes": max(off(each, expected["classes"]) for each in classes),
    }


def trained(folder: Path) -> dict[str, float]:
    """Loss of a LoRA before and after some steps of transformers' Trainer, on two kinds of sequence."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    model = get_peft_model(
        model, LoraConfig(task_type="SEQ_CLS", target_modules=["fc1", "fc2"], modules_to_save=["score"])
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    texts = ["ACACACACAC", "GTGTGT"] * 8
    data = [{**tokenizer(text), "labels": number % 2} for number, text in enumerate(texts)]
    batch = tokenizer.pad([dict(row) for row in data], return_tensors="pt")
    with tempfile.TemporaryDirectory() as out:
        arguments = transformers.TrainingArguments(
            out, max_steps=15, learning_rate=0.02, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no"
        )
        trainer = transformers.Trainer(model, arguments, train_dataset=data, processing_class=tokenizer)
        before = float(model.eval()(**batch).loss)
        trainer.train()
        after = float(model.eval()(**batch).loss)
    return {"before": before, "after": after}


def main() -> None:
    folders = sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir())
    torch.set_grad_enabled(False)
    results = {folder.name: largest_difference(folder) for folder in folders}
    torch.set_grad_enabled(True)
    causal = folders[0]
    os.chdir(causal)
    (example,) = re.findall(r"^```python\n(.*?)^```", Path("README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    card: dict[str, Any] = {}
    exec(example, card)
    tokenizer = transformers.AutoTokenizer.from_pretrained(causal, trust_remote_code=True)
    encoded = tokenizer(["ACGTn", "uR"], padding=True, return_tensors="pt")
    generated = opened(causal, "ForCausalLM").generate(**tokenizer("ACGT", return_tensors="pt"), max_new_tokens=4)
    features = transformers.pipeline("feature-extraction", model=opened(causal), tokenizer=tokenizer)("ACGTA")
    print(
        json.dumps(
            {
                "card": list(card["output"].logits.shape),
                "off": results,
                "ids": encoded["input_ids"].tolist(),
                "mask": encoded["attention_mask"].tolist(),
                "text": tokenizer.decode(encoded["input_ids"][0]),
                "generated": generated.shape[1],
                "features": len(features[0]),
                "trained": trained(causal),
            }
        )
    )


if __name__ == "__main__":
    main()
