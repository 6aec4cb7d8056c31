"""What clients send and get."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic import Strict as StrictNumber
from pydantic import Tag as UnionTag
from pydantic_core import PydanticCustomError

from index.agreement import ItemAgreement
from index.calibration import Calibration
from index.collection import NAME
from index.description import Sentence
from index.ranking import Choice
from index.search import Hit, Plan
from index.tagging import Tag
from media.manifest import check_metadata, check_string

from .jobs import Job
from .keys import Role
from .settings import TOP_K_MAX

# of an item, each at a path below the item's own
ITEM_PARTS = (
    "media",
    "poster",
    "waveform",
    "playable",
    "clip",
    "highlights",
    "description",
    "agreement",
)
RESERVED_ENDINGS = tuple(f"/{part}" for part in ITEM_PARTS)


def check_reachable(id: str) -> str:
    """An id that can be stored, and asked for in a URL. Raises ValueError."""
    if id in (".", "..") or id.endswith(RESERVED_ENDINGS):
        endings = ", ".join(f"'{ending}'" for ending in RESERVED_ENDINGS)
        raise ValueError(f"an id may not be '.' or '..', and may not end with {endings}")
    return check_string(id)


ItemId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$"),
    AfterValidator(check_reachable),
]
Text = Annotated[str, AfterValidator(check_string)]
Metadata = Annotated[dict[str, Any], AfterValidator(check_metadata)]


def allow_null(schema: dict[str, Any]) -> None:
    """Say in a JSON schema that optional fields may be null."""
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        choices = field.get("anyOf", [])
        if name in required or {"type": "null"} in choices:
            continue
        kept = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
        inner = dict(field)
        field.clear()
        field.update(kept, anyOf=[inner, {"type": "null"}])


class Strict(BaseModel):
    """A request; a field it does not know is an error, not a silent nothing. Clients in typed
    languages send null for what they leave out, so an optional field that is null is absent.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra=allow_null)

    @model_validator(mode="before")
    @classmethod
    def drop_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {
            name: value
            for name, value in given.items()
            if value is not None or name not in optional
        }


SPACE_OF_ONE = "of a bundle that has several; else the first that has the modality"


class Texts(Strict):
    texts: list[str] = Field(min_length=1)
    space: str | None = Field(None, description=SPACE_OF_ONE)


class TextContent(BaseModel):
    type: Literal["text"]
    text: str


class Sound(BaseModel):
    data: bytes = Field(
        description="a sound file in base64", json_schema_extra={"contentEncoding": "base64"}
    )
    format: str | None = Field(
        None, description="as a suffix, 'flac' say: for a file that does not tell what it is"
    )


class AudioContent(BaseModel):
    """As OpenAI's chat takes sounds."""

    type: Literal["input_audio"]
    input_audio: Sound


class ImageAddress(BaseModel):
    url: str = Field(
        description="a picture as a data URL, 'data:image/png;base64,...'; nothing is fetched"
    )
    detail: str | None = Field(None, description="ignored")


class ImageContent(BaseModel):
    """As OpenAI's chat takes pictures."""

    type: Literal["image_url"]
    image_url: ImageAddress


def kind_of_content(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    told = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return {"text": "part", "input_audio": "sound", "image_url": "picture"}.get(str(told))


def text_or_list(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, list) else None


Content = Annotated[
    Annotated[str, UnionTag("text")]
    | Annotated[TextContent, UnionTag("part")]
    | Annotated[AudioContent, UnionTag("sound")]
    | Annotated[ImageContent, UnionTag("picture")],
    Discriminator(
        kind_of_content,
        custom_error_type="content",
        custom_error_message="this is neither a text nor a part of the type text, input_audio or"
        " image_url",
    ),
]
Input = Annotated[
    Annotated[str, UnionTag("text")] | Annotated[list[Content], UnionTag("list")],
    Discriminator(
        text_or_list,
        custom_error_type="input",
        custom_error_message="this is neither a text nor a list of texts and parts",
    ),
]


class OpenAIEmbeddings(BaseModel):
    """OpenAI's shape; fields of theirs that mean nothing here are ignored. Sounds and pictures go
    where a text does, as parts.
    """

    input: Input
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = None

    @field_validator("input", mode="before")
    @classmethod
    def refuse_token_ids(cls, value: Any) -> Any:
        if isinstance(value, list) and any(map(holds_numbers, value)):
            raise PydanticCustomError("token_ids", TOKEN_IDS)
        return value


TOKEN_IDS = (
    "token ids are not taken, for they are those of another vocabulary. Send texts. LangChain's"
    " OpenAIEmbeddings does with check_embedding_ctx_length=False"
)


def holds_numbers(value: Any) -> bool:
    """Whether it is a number or a list that begins with one."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, int) and not isinstance(first, bool)


class NewCollection(Strict):
    name: str = Field(json_schema_extra={"pattern": f"^{NAME.pattern}$"})


class TextItem(Strict):
    text: Text
    id: ItemId | None = None
    metadata: Metadata = Field(default_factory=dict)


class ItemChange(Strict):
    metadata: Metadata = Field(description="all that it has from then on")


class NewJob(Strict):
    kind: Literal["import"] = "import"
    collection: str = "default"
    path: Text = Field(max_length=4096, description="below the import folder; '.' is all of it")


def whole(value: Any) -> Any:
    """10.0 is an integer to JSON, true and "10" are none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Number = Annotated[float, StrictNumber(), Field(allow_inf_nan=False)]
Share = Annotated[float, StrictNumber(), Field(ge=0, le=1)]
Count = Annotated[int, StrictNumber(), BeforeValidator(whole), Field(ge=1, le=TOP_K_MAX)]


class SearchOptions(Strict):
    collection: str = "default"
    top_k: Count = Field(10, description="how many hits at most")
    filter: dict[str, Any] | None = Field(
        None, description="over metadata: other items are left out"
    )
    min_score: Number | None = Field(None, description="of a hit")
    min_confidence: Share | None = Field(
        None, description="of a hit, where the collection is large enough to tell"
    )
    exact: StrictBool = Field(False, description="compare every vector")
    rerank: Literal["qb_norm", "gram", "triangle"] | None = Field(
        None,
        description="another order of what was found: what every query finds lower (QB-Norm), or by"
        " words, pictures and sound together (GRAM's volume, TRIANGLE's area)",
    )
    learned: StrictBool = Field(
        True, description="move the query by what was learned from kept marks, if anything was"
    )
    tags: StrictBool = Field(False, description="whether hits have the tags of their items")
    space: str | None = Field(
        None, description="of a bundle that has several; else the first that holds both ends"
    )


MARKS_MAX = 100  # of each kind in one search


class Mark(Strict):
    id: str
    start_s: Number | None = Field(
        None, description="of the moment; without it, the item's best for the query"
    )


class Marks(Strict):
    """What was right and wrong among the hits of an earlier search."""

    right: list[Mark] = Field(default_factory=list, max_length=MARKS_MAX)
    wrong: list[Mark] = Field(default_factory=list, max_length=MARKS_MAX)


class MarkedSearch(SearchOptions):
    feedback: Marks | None = Field(
        None, description="moves the query towards what is right, away from what is wrong"
    )


class TextSearch(MarkedSearch):
    query: str


class ItemQuery(Strict):
    """An item that was searched by."""

    item: str
    modality: Literal["audio", "video", "text"]


def words_or_item(value: Any) -> str | None:
    if isinstance(value, str):
        return "words"
    return "item" if isinstance(value, dict | ItemQuery) else None


FeedbackQuery = Annotated[
    Annotated[Text, UnionTag("words")] | Annotated[ItemQuery, UnionTag("item")],
    Discriminator(
        words_or_item,
        custom_error_type="query",
        custom_error_message="this is neither words nor an item with its modality",
    ),
]


class NewFeedback(Marks):
    """Marks to be kept: what was right and wrong among the hits of a search."""

    collection: str = "default"
    query: FeedbackQuery = Field(description="what was searched by: words, or an item")
    target: Literal["any", "video", "audio", "text"] = "any"

    @model_validator(mode="after")
    def check_marks(self) -> NewFeedback:
        right = {(mark.id, mark.start_s) for mark in self.right}
        wrong = {(mark.id, mark.start_s) for mark in self.wrong}
        if not right and not wrong:
            raise ValueError("mark at least one hit as `right` or `wrong`")
        if right & wrong:
            raise ValueError("a moment is marked as right and as wrong")
        if len(right) + len(wrong) < len(self.right) + len(self.wrong):
            raise ValueError("a moment is marked twice")
        return self


CHOICES_MAX = 256  # of texts that are ranked


class Rank(Strict):
    """Texts to choose from. The clip is an item of a collection, or a file beside the request."""

    texts: list[Text] = Field(min_length=2, max_length=CHOICES_MAX)
    item: str | None = Field(None, description="the id of an item of the collection")
    collection: str = "default"
    target: Literal["any", "video", "audio"] = Field(
        "any", description="what of the clip is compared; any: pictures and sound together"
    )
    space: str | None = None


PARTS_MAX = 16  # of a composed query


class Part(Strict):
    weight: Number = Field(1.0, ge=-1000.0, le=1000.0)
    then: StrictBool = Field(
        False, description="it comes after the parts before it, a step of its own"
    )


class TextPart(Part):
    text: Text


class FilePart(Part):
    file: str = Field(description="the name of a part of the form")
    modality: Literal["audio", "video"]


class ItemPart(Part):
    item: str = Field(description="the id of an item of the collection")
    modality: Literal["audio", "video", "text"]


def kind_of_part(value: Any) -> str | None:
    """By the field that it has, as the others go with all kinds or with two."""
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return next((name for name in ("text", "file", "item") if name in given), None)


AnyPart = Annotated[
    Annotated[TextPart, UnionTag("text")]
    | Annotated[FilePart, UnionTag("file")]
    | Annotated[ItemPart, UnionTag("item")],
    Discriminator(
        kind_of_part,
        custom_error_type="part",
        custom_error_message="a part is an object with a text, a file or an item",
    ),
]


def split_steps(parts: Sequence[Part]) -> list[range]:
    """Which parts belong together: a step begins at the first, and at each that has `then`.

    >>> split_steps([Part(), Part(), Part(then=True)])
    [range(0, 2), range(2, 3)]
    """
    starts = [place for place, part in enumerate(parts) if part.then or place == 0]
    return [range(*ends) for ends in pairwise([*starts, len(parts)])]


class ComposedSearch(MarkedSearch):
    """Parts with weights, negative for what is not wanted, and what to search with them. With
    `then`, they are looked for one after another.
    """

    parts: list[AnyPart] = Field(min_length=1, max_length=PARTS_MAX)
    targets: list[Literal["any", "video", "audio", "text"]] = Field(
        min_length=1, description="any: pictures and sound scored together"
    )
    aggregate: Literal["moment", "item"] = Field(
        "moment",
        description="moment: one window matches all parts together; item: each part has its own"
        " window, anywhere in the item, so that all must occur",
    )

    @field_validator("parts")
    @classmethod
    def wanting(
        cls, parts: list[TextPart | FilePart | ItemPart]
    ) -> list[TextPart | FilePart | ItemPart]:
        if parts[0].then:
            raise ValueError("the first part comes after nothing: it has no `then`")
        for step in split_steps(parts):
            if not any(parts[place].weight > 0 for place in step):
                raise ValueError("at least one part of each step has a weight above zero")
        return parts

    @model_validator(mode="after")
    def check_together(self) -> ComposedSearch:
        several = self.aggregate == "item" or any(part.then for part in self.parts)
        if self.rerank is not None and several:
            raise ValueError("`rerank` goes with neither `then` nor `aggregate` item")
        if self.feedback is not None and len(split_steps(self.parts)) > 1:
            raise ValueError("`feedback` does not go with `then`")
        if self.aggregate == "item":
            if any(part.then for part in self.parts) or self.feedback is not None:
                raise ValueError("`aggregate` item goes with neither `then` nor `feedback`")
            if any(part.weight <= 0 for part in self.parts):
                raise ValueError("`aggregate` item takes weights above zero")
        return self


def whole_schema(model: type[BaseModel]) -> dict[str, Any]:
    """A model's JSON schema in one piece, for a place that its definitions cannot be referred to
    from.
    """
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def put_in(value: Any) -> Any:
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).rpartition("/")[2]
            return (
                put_in(parts[name]) if name in parts else {k: put_in(v) for k, v in value.items()}
            )
        return [put_in(v) for v in value] if isinstance(value, list) else value

    whole: dict[str, Any] = put_in(schema)
    return whole


def fields_below(model: type[BaseModel]) -> frozenset[str]:
    """The names of the fields of all models that are made from one."""
    own = frozenset(model.model_fields)
    return own.union(*(fields_below(made) for made in model.__subclasses__()))


# of all requests: what stands in a JSON body, or in a form
FIELDS = fields_below(Strict) | frozenset(OpenAIEmbeddings.model_fields)

WARNINGS = "words that are not known, or not read"


class WindowVector(BaseModel):
    start_s: float
    end_s: float
    embedding: list[float]


class ErrorBody(BaseModel):
    code: str
    message: str
    detail: dict[str, Any]


class ErrorResponse(BaseModel):
    error: ErrorBody


class Readiness(BaseModel):
    ready: bool
    reasons: list[str] = Field(description="what does not work, a sentence each")


class Embedding(BaseModel):
    """One input's vector, or what is wrong with it."""

    index: int
    filename: str | None = None
    embedding: list[float] | None = None
    windows: list[WindowVector] | None = None
    error: ErrorBody | None = None


class Embeddings(BaseModel):
    fingerprint: str
    space: str
    dim: int
    data: list[Embedding]
    warnings: list[str] = Field(default_factory=list, description=WARNINGS)


class SearchResult(BaseModel):
    collection: str
    fingerprint: str
    route: str = Field(description="the search direction, such as text-video")
    space: str
    took_ms: float
    plan: Plan
    good_match: bool | None = Field(
        description="whether any hit stands out; null if that cannot be told"
    )
    calibration: dict[str, Calibration] = Field(
        description="by target, what this query's scores mean"
    )
    warnings: list[str] = Field(default_factory=list, description=WARNINGS)
    hits: list[Hit]


class ItemSize(BaseModel):
    id: str
    windows: int
    modalities: list[str]
    duration_s: float


class ItemAdded(ItemSize):
    warnings: list[str] = Field(default_factory=list, description=WARNINGS)


class Words(BaseModel):
    """What a file says or shows from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    text: str
    kind: str = Field(description="subtitle, speech, screen, chapter or tag")


class ItemFound(ItemSize):
    partial: bool = Field(
        default=False, description="whether the rest of its file is still to be read"
    )
    kind: str = Field(description="video, image, audio or text")
    added: str | None = Field(
        description="when, in UTC; null of an item that an earlier version added"
    )
    filename: str | None
    text: str | None
    metadata: dict[str, Any]
    words: list[Words] | None = Field(
        None, description="what the file says and shows in words, if it is asked for"
    )


class ItemLink(BaseModel):
    media: str = Field(description="the path of the item's media, with what opens it without a key")
    poster: str | None = Field(description="the same of its pictures; `&at_s` says which")
    playable: str = Field(
        description="the same of a version that browsers play; `&start_s` says of which second"
    )
    clip: str = Field(description="the same of a clip; `&start_s` and `&end_s` say which")
    expires_s: float | None = Field(
        description="how long they open it; null where no key is wanted"
    )


class Waveform(BaseModel):
    peaks: list[int] = Field(
        description="the loudest of each of as many equal parts of the item, 255 for full scale"
    )


class WhereRequest(Strict):
    query: Text
    start_s: float = Field(0.0, ge=0.0, allow_inf_nan=False, description="where the window begins")


class FrameWhere(BaseModel):
    at_s: float = Field(description="the frame's second in the item")
    map: list[list[float]] = Field(
        description="a score for each cell of the frame, in rows from the top left on"
    )


class SeenWhere(BaseModel):
    frames: list[FrameWhere]


class HeardWhere(BaseModel):
    times_s: list[float] = Field(description="the middles of the map's columns, in the item")
    bands_hz: list[tuple[float, float]] = Field(
        description="lowest and highest frequency of the map's rows"
    )
    map: list[list[float]] = Field(description="a row of scores for each band")


class WhereFound(BaseModel):
    """Where a query matches one window of an item."""

    start_s: float = Field(description="where the window begins; earlier than asked at the end")
    end_s: float
    video: SeenWhere | None = Field(None, description="null where nothing is seen")
    audio: HeardWhere | None = Field(None, description="null where nothing is heard")
    warnings: list[str] = Field(default_factory=list, description=WARNINGS)


class ItemPage(BaseModel):
    items: list[ItemFound]
    next: str | None = Field(description="give as `after` to get the next page")


class SessionFound(BaseModel):
    key: str | None = Field(description="name of the key; null where no keys are asked for")
    role: Role = Field(description="what may be done")
    collections: list[str] | None = Field(description="those that may be seen; null: all")
    by: Literal["nothing", "key", "link", "session"] = Field(description="how one is known")


class CollectionFound(BaseModel):
    name: str
    fingerprint: str
    items: int
    windows: int
    vectors: dict[str, int]


class CollectionList(BaseModel):
    collections: list[CollectionFound]


class Description(BaseModel):
    id: str
    bank: str = Field(
        description="whose sentences these are: default, of the vocabulary of tags; or own"
    )
    sentences: list[Sentence]


class Ranking(BaseModel):
    target: str = Field(description="what was compared: video, audio, or any for both")
    choices: list[Choice] = Field(description="best first; the probabilities sum to one")
    warnings: list[str] = Field(default_factory=list, description=WARNINGS)


class TagList(BaseModel):
    collection: str
    vocabulary: str = Field(description="whose names the tags are: default, or own")
    total: int = Field(description="how many tags there are")
    tags: list[Tag]


class KeptMark(BaseModel):
    """A mark that is kept."""

    number: int
    query: str | ItemQuery
    target: str
    id: str = Field(description="the item that was marked")
    start_s: float | None = Field(
        description="of the moment; null for the item's best for the query"
    )
    right: bool
    created: float = Field(description="seconds since 1970")


class FeedbackKept(BaseModel):
    collection: str
    numbers: list[int] = Field(description="of the marks, in their order: right, then wrong")


class FeedbackPage(BaseModel):
    collection: str
    marks: list[KeptMark]
    next: int | None = Field(description="give as `after` to get the next page")


class Agreement(BaseModel):
    collection: str
    by_chance: float = Field(description="mean cosine of pictures and sounds of different items")
    total: int = Field(description="how many items have pictures and sound")
    items: list[ItemAgreement]


class JobList(BaseModel):
    jobs: list[Job]
