#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.13.0: after `from_pretrained` has loaded any model, torch.linspace ignores
# `with torch.device(...)` for the rest of the process; arange and the others still follow it. While loading, transformers
# puts a wrapper in the place of torch.linspace, under a device context; torch keeps the set of functions that follow the
# context when it first needs it (a cache), so the wrapper is in the set and the function itself is not. Seen: linspace on
# "cpu", arange on "meta". A process that has used a device context before it loads the model is not affected.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.24.0 numpy==2.4.6
cat > "$place/seen.py" <<'PY'
import sys

import torch
from transformers import BertConfig, BertModel

folder, early = sys.argv[1], sys.argv[2] == "early"
if early:
    with torch.device("meta"):
        torch.zeros(1)
config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=8)
BertModel(config).save_pretrained(folder)
BertModel.from_pretrained(folder)
with torch.device("meta"):
    print(torch.linspace(0, 1, 3).device, torch.arange(3).device)
PY
late=$("$place/venv/bin/python" "$place/seen.py" "$place/model" late 2>/dev/null)
early=$("$place/venv/bin/python" "$place/seen.py" "$place/model" early 2>/dev/null)
echo "linspace and arange on: $late; with a device context used before: $early"
[ "$late" = "cpu meta" ] && [ "$early" = "meta meta" ]
