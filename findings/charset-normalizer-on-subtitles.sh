#!/usr/bin/env bash
# charset-normalizer 3.5.3 on subtitles in the encodings of Windows: French, Swedish and Portuguese of cp1252 are taken for cp1250
# ("Oů étais-tu", "i gĺr", "ŕ noite"). Greek is right as bare words; with the numbers and times of SubRip around
# the words it is taken for mac_greek. It does not depend on the length: four times the cues give the same. chardet 7.7.0
# reads all of them right, bare or not.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check charset-normalizer==3.5.3 chardet==7.7.0
"$place/venv/bin/python" - <<'PY'
from importlib.metadata import version

import chardet
from charset_normalizer import from_bytes

FILMS = {
    "French": ("cp1252", "Où étais-tu hier soir ?|Je t'ai attendu jusqu'à minuit.|Ça m'est égal, répondit-elle.|"
               "Nous avons mangé une crème brûlée à l'hôtel.|Le garçon a été très gentil.|Les élèves rentrent à l'école."),
    "Swedish": ("cp1252", "Var var du i går kväll?|Jag väntade på dig till midnatt.|Flickan åt ett äpple på ön.|"
                "Är du säker på att han kommer?|Vi måste åka hem nu, det är för kallt.|Kan du öppna fönstret?"),
    "Portuguese": ("cp1252", "Onde você estava ontem à noite?|Esperei por você até a meia-noite.|Não há pão na cozinha.|"
                   "A irmã dele é médica.|Amanhã vamos à praia.|O coração bate forte.|Você não é o único."),
    "Greek": ("cp1253", "Πού ήσουν χθες το βράδυ;|Σε περίμενα μέχρι τα μεσάνυχτα.|Αύριο θα πάμε στην Αθήνα.|"
              "Ο σκύλος γαβγίζει στον δρόμο και βρέχει.|Τα παιδιά παίζουν στον κήπο.|Ήταν πολύ παλιά."),
}  # fmt: skip


def as_subrip(cues):
    rows = [f"{n}\n00:00:{n:02},000 --> 00:00:{n:02},900\n{cue}\n" for n, cue in enumerate(cues, 1)]
    return "\n".join(rows)


seen = {}
for language, (encoding, words) in FILMS.items():
    for times in (1, 4):
        cues = words.split("|") * times
        for form, text in (("bare", "\n".join(cues)), ("SubRip", as_subrip(cues))):
            content = text.encode(encoding)
            best = from_bytes(content).best()
            other = chardet.detect(content)["encoding"]
            assert content.decode(other) == text, (language, form, other)
            seen[language, times, form] = str(best) == text
            print(f"{language}, {len(cues)} cues, {form}: {best.encoding}, right: {str(best) == text}; chardet: {other}")
print("charset-normalizer", version("charset-normalizer"), "chardet", version("chardet"))
assert [key for key, right in seen.items() if right] == [("Greek", 1, "bare"), ("Greek", 4, "bare")], seen
PY
