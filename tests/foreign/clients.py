"""Ask a service through a client that other people wrote, by the Python of their environment.

    build/foreign/bin/python tests/foreign/clients.py NAME ADDRESS KEY SOUND

prints as JSON what the client gave its user. `SOUND` is a file. Run by tests/test_foreign.py.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Without these they ask other machines while they are imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["LANGSMITH_TRACING"] = "false"
TEXTS = ["red", "green"]


def refusal(ask: Callable[[], object]) -> str:
    """The class of the error that it raises, and its message."""
    try:
        return f"no error, but {ask()!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def ask_openai(address: str, key: str, sound: Path) -> dict[str, Any]:
    import openai

    client = openai.OpenAI(base_url=address, api_key=key, max_retries=0)
    stranger = openai.OpenAI(base_url=address, api_key="wrong", max_retries=0)

    def embed(input: Any, model: str = "fake", **options: Any) -> list[list[float]]:
        answer = client.embeddings.create(model=model, input=input, **options)
        return [row.embedding for row in answer.data]

    data = base64.b64encode(sound.read_bytes()).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    nulls = dict.fromkeys(("dimensions", "encoding_format", "user"))
    return {
        "batch": embed(TEXTS),
        "floats": embed("red", encoding_format="float"),
        "as it was sent": embed("red", encoding_format="base64"),
        "nulls": embed("red", extra_body=nulls),
        "parts": embed(["red", part, {"type": "text", "text": "green"}]),
        "models": [(model.id, model.created, model.owned_by) for model in client.models.list()],
        "model": client.models.retrieve("fake").id,
        "wrong model": refusal(lambda: embed("red", model="other")),
        "wrong model asked for": refusal(lambda: client.models.retrieve("some/other")),
        "token ids": refusal(lambda: embed([1, 2])),
        "lists of token ids": refusal(lambda: embed([[1, 2], [3]])),
        "wrong key": refusal(lambda: stranger.embeddings.create(model="fake", input="red")),
    }


def ask_langchain(address: str, key: str, sound: Path) -> dict[str, Any]:
    import tiktoken
    from langchain_openai import OpenAIEmbeddings

    # By itself it fetches OpenAI's vocabulary. Bytes do, where only what is sent matters.
    ranks = {bytes([n]): n for n in range(256)}
    tiktoken.registry.ENCODINGS["cl100k_base"] = tiktoken.Encoding(
        "cl100k_base", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={}
    )

    def embeddings(model: str = "fake", **options: Any) -> OpenAIEmbeddings:
        return OpenAIEmbeddings(
            model=model, base_url=address, api_key=key, max_retries=0, **options
        )

    of_texts = {"check_embedding_ctx_length": False}
    return {
        "batch": embeddings(**of_texts).embed_documents(TEXTS),
        "floats": [embeddings(**of_texts).embed_query("red")],
        "wrong model": refusal(lambda: embeddings("other", **of_texts).embed_query("red")),
        "token ids": refusal(lambda: embeddings().embed_documents(TEXTS)),
    }


def ask_llamaindex(address: str, key: str, sound: Path) -> dict[str, Any]:
    from llama_index.embeddings.openai import OpenAIEmbedding

    def embedding(name: str = "fake") -> OpenAIEmbedding:
        return OpenAIEmbedding(model_name=name, api_base=address, api_key=key, max_retries=0)

    return {
        "batch": embedding().get_text_embedding_batch(TEXTS),
        "floats": [embedding().get_query_embedding("red")],
        "wrong model": refusal(lambda: embedding("other").get_query_embedding("red")),
    }


def ask_litellm(address: str, key: str, sound: Path) -> dict[str, Any]:
    import litellm

    def embed(input: Any, model: str = "fake", **options: Any) -> list[Any]:
        answer = litellm.embedding(
            model=f"openai/{model}", api_base=address, api_key=key, input=input, **options
        )
        return [row["embedding"] for row in answer.data]

    return {
        "batch": embed(TEXTS),
        "floats": embed("red", encoding_format="float"),
        "nulls": embed("red", encoding_format=None, dimensions=None, user=None),
        "as it was sent": embed("red", encoding_format="base64"),
        "wrong model": refusal(lambda: embed("red", model="other")),
        "token ids": refusal(lambda: embed([1, 2])),
    }


def ask_haystack(address: str, key: str, sound: Path) -> dict[str, Any]:
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
    from haystack.utils import Secret

    place = {"api_base_url": address, "api_key": Secret.from_token(key), "max_retries": 0}
    documents = OpenAIDocumentEmbedder(
        model="fake", progress_bar=False, raise_on_failure=True, **place
    )
    embedded = documents.run([Document(content=text) for text in TEXTS])["documents"]
    other = OpenAITextEmbedder(model="other", **place)
    return {
        "batch": [document.embedding for document in embedded],
        "floats": [OpenAITextEmbedder(model="fake", **place).run("red")["embedding"]],
        "wrong model": refusal(lambda: other.run("red")),
    }


CLIENTS = {
    "openai": ask_openai,
    "langchain": ask_langchain,
    "llamaindex": ask_llamaindex,
    "litellm": ask_litellm,
    "haystack": ask_haystack,
}

if __name__ == "__main__":
    name, address, key, sound = sys.argv[1:]
    print(json.dumps(CLIENTS[name](address, key, Path(sound))))
