"""Queries that each collection is asked. Everyday ones tune its indexes. Rare ones, for things that
few archives have, show how those score that nothing matches.
"""

from __future__ import annotations

import hashlib

from export.encoder import Encoder

from .collection import Collection

EVERYDAY = """
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
RARE = """
a glassblower at a furnace; an X-ray of a hand; a dentist drilling a tooth; morse code; fencers in
masks; a telescope in an observatory; a harp; bacteria under a microscope; a cable car in fog; a
puppet theatre; a Geiger counter clicking; a jellyfish in an aquarium; a welder's sparks; a sitar; a
spinning wheel; a court in session; a cuckoo clock; a zip being closed; a potter at the wheel;
curling; a didgeridoo; a rainbow over a valley; a dial tone; a peacock with its tail spread; a
foghorn; an oil rig at sea; a cork leaving a bottle; a hospital monitor beeping; an owl hooting in
the dark; a trapeze act in a circus; a music box; a shark; a lawn being mowed; an escalator in a
station; a theremin; a satellite picture of a cyclone; arrows hitting a target; a tap dripping; a
bonfire on a beach; a school of dolphins; a bowling ball and pins; a choir in a cathedral; a gong; a
yodeller; a jackhammer; a metronome; a cement mixer; a hurdy-gurdy; a cash register; a laboratory
centrifuge; an avalanche; a hovercraft; a lathe; a barrel organ; castanets; an auctioneer; a
bullwhip; a tornado; a ventriloquist; a carousel; an otter; gears of a watch; an armadillo; an
iceberg
"""


def list_queries(queries: str) -> list[str]:
    return [" ".join(query.split()) for query in queries.split(";")]


def ensure_query_bank(collection: Collection, encoder: Encoder) -> None:
    """Embed the queries by each text encoding of the bundle, and store them in a collection that
    has none yet, or those of an earlier version.
    """
    everyday = list_queries(EVERYDAY)
    rare = list_queries(RARE)
    texts = hashlib.sha256("\n".join(everyday + rare).encode()).hexdigest()
    for encoding in encoder.manifest.encodings("text"):
        if collection.bank_texts(encoding) == texts:
            continue
        targets = [other for other in collection.dims if encoder.manifest.compares(encoding, other)]
        vectors = encoder.embed(encoding, encoder.tokens(everyday + rare, encoding))
        collection.set_bank(
            encoding,
            vectors[: len(everyday)],
            targets,
            rare=vectors[len(everyday) :],
            texts=texts,
        )
