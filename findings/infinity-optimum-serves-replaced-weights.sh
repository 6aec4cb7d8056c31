#!/usr/bin/env bash
# infinity-emb 0.0.78, engine "optimum" (optimum 1.24.0, ONNX Runtime 1.32.0): when a model of a local folder is exported
# again with other weights, the next process serves vectors of the old weights. No error is raised. By default infinity
# optimises the graph and keeps it as model_optimized.onnx; optimize_model in utils_optimum.py then takes any file
# *_optimized.onnx that it finds there, and compares neither its time nor its content with the model it was made from. The
# place is infinity_onnx/<provider> in the Hugging Face cache, joined with the model's name. An absolute path replaces what it
# is joined to, so the file lies in the model's own folder. For "." it lies in infinity_onnx/<provider> itself, whatever the
# working directory is, so a second model in another folder gets the vectors of the first. Seen in both cases: cosine 1.00 to
# the old weights' own vector and 0.06 to the new weights' one. With onnx_disable_optimize it is 1.00 to the new one. One would
# expect the graph to be optimised anew when its source is another.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check \
    torch==2.13.0 "infinity-emb[server]==0.0.78" optimum==1.24.0 transformers==4.48.3 sentence-transformers==3.4.1 \
    onnxruntime==1.32.0 onnx==1.23.2 numpy==1.26.4 huggingface_hub==0.36.2 click==8.1.8 typer==0.12.5 coloredlogs==15.0.1
export DO_NOT_TRACK=1 HF_HOME="$place/cache" HF_HUB_OFFLINE=1 TMPDIR="$place"
cat > "$place/export.py" <<'PY'
"""Export a BERT of random weights to ONNX, and save its own vector of a text: the mean over the tokens."""
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

seed, folder = int(sys.argv[1]), Path(sys.argv[2])
folder.mkdir(exist_ok=True)
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "bird", "cat", "dog", "barks", "sings", "sleeps"]
(folder / "vocab.txt").write_text("\n".join(words))
tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"))
tokenizer.save_pretrained(folder)
config = BertConfig(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=len(words)
)
config.save_pretrained(folder)
torch.manual_seed(seed)
model = BertModel(config, add_pooling_layer=False).eval()
tokens = tokenizer(["a dog barks"], return_tensors="pt")
names = ["input_ids", "attention_mask", "token_type_ids"]
torch.onnx.export(
    model, tuple(tokens[name] for name in names), folder / "model.onnx", dynamo=False,
    input_names=names, output_names=["last_hidden_state"],
    dynamic_axes={name: {0: "texts", 1: "tokens"} for name in [*names, "last_hidden_state"]},
)
with torch.no_grad():
    np.save(folder.parent / f"own{seed}.npy", model(**tokens).last_hidden_state[0].mean(dim=0).numpy())
PY
cat > "$place/serve.py" <<'PY'
"""Serve the model `name`, and tell the cosines of its vector to the own vectors of both weights."""
import asyncio
import sys
from pathlib import Path

import numpy as np
from infinity_emb import AsyncEmbeddingEngine, EngineArgs

name = sys.argv[1]

async def embed(disable):
    engine = AsyncEmbeddingEngine.from_args(EngineArgs(
        model_name_or_path=name, engine="optimum", device="cpu", pooling_method="mean",
        model_warmup=False, onnx_disable_optimize=disable,
    ))
    async with engine:
        vectors, _ = await engine.embed(["a dog barks"])
    return vectors[0] / np.linalg.norm(vectors[0])

for disable in (False, True):
    vector = asyncio.run(embed(disable))
    owns = [np.load(Path(__file__).parent / f"own{seed}.npy") for seed in (0, 1)]
    print(*(f"{vector @ own / np.linalg.norm(own):.2f}" for own in owns), end=" ")
PY
exported() {
    "$place/venv/bin/python" "$place/export.py" "$@" > "$place/log" 2>&1 || { cat "$place/log" >&2; exit 1; }
}
served() {
    cd "$1"
    "$place/venv/bin/python" "$place/serve.py" "$2" 2> "$place/log" || { cat "$place/log" >&2; exit 1; }
}

echo "cosines to weights 0 and 1, by default and without the optimisation:"
exported 0 "$place/one"
exported 1 "$place/two"
here=$(served "$place/one" .)
[ -e "$HF_HOME/hub/infinity_onnx/CPUExecutionProvider/model_optimized.onnx" ]
there=$(served "$place/two" .)
echo "weights 0 as \".\": $here; weights 1 as \".\" in another folder: $there"

exported 0 "$place/model"
first=$(served "$place" "$place/model")
[ -e "$place/model/model_optimized.onnx" ]
exported 1 "$place/model"
again=$(served "$place" "$place/model")
echo "weights 0 by an absolute path: $first; then weights 1 in its place: $again"

[ "$here" = "1.00 0.06 1.00 0.06 " ]
[ "$first" = "$here" ]
[ "$there" = "1.00 0.06 0.06 1.00 " ]
[ "$again" = "$there" ]
