"""Generic queries. What they find in a collection shows how non-matches score."""

from __future__ import annotations

from export.encoder import Encoder

from .collection import Collection

QUERIES = """
a dog barking; a cat on a sofa; a baby laughing; a man talking; a woman singing; children
playing; a crowd cheering; someone typing; a telephone ringing; a door closing; footsteps on
stairs; a car passing by; a train arriving; an aeroplane taking off; a motorcycle; a boat on the
water; waves on a beach; rain on a window; thunder far away; wind in trees; birds singing; a
rooster; a horse running; cows in a field; bees around flowers; a river; a fire burning; snow
falling; a sunset over mountains; a city street at night; fireworks; a football match; people
dancing; a band on a stage; someone playing the piano; an electric guitar; a drum solo; a
violin; church bells; a siren; a hammer on metal; a saw cutting wood; a vacuum cleaner; water
boiling; food frying in a pan; a coffee machine; glass breaking; a clock ticking; keys on a
table; paper being torn; a printer; a robot arm; a computer screen; a map; a lecture in a
classroom; an interview; a weather report; a cartoon; a cake with candles; a bicycle; a swimming
pool; someone sneezing; clapping hands; silence
"""


def list_queries() -> list[str]:
    return [" ".join(query.split()) for query in QUERIES.split(";")]


def ensure_query_bank(collection: Collection, encoder: Encoder) -> None:
    """Embed the queries by each text encoding of the bundle, and store them in a collection that
    does not have them yet.
    """
    for encoding in encoder.manifest.encodings("text"):
        if collection.has_bank(encoding):
            continue
        targets = [other for other in collection.dims if encoder.manifest.compares(encoding, other)]
        vectors = encoder.embed(encoding, encoder.tokens(list_queries(), encoding))
        collection.set_bank(encoding, vectors, targets)
