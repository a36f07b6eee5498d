"""The words of the synthetic language and the facts that tie them together.

Constants only. Sentences are made in ``grammar``; nothing here depends on a seed.
"""

from collections.abc import Mapping


def _words(text: str) -> tuple[str, ...]:
    """The words of a text, for lists that are easier to read as prose."""
    return tuple(text.split())


# Every noun has a regular plural, so that number is visible in the word and needs no table.
NOUNS: Mapping[str, tuple[str, ...]] = {
    "bird": _words("heron robin finch eagle sparrow magpie parrot falcon pigeon raven"),
    "animal": _words("fox bear rabbit badger otter tiger lion camel donkey monkey"),
    "plant": _words("oak birch willow cedar maple alder poplar pine elm fern"),
    "vehicle": _words("car van truck tram bus wagon bicycle scooter tractor boat"),
    "tool": _words("hammer saw drill chisel wrench spade rake axe shovel needle"),
    "food": _words("apple pear plum melon carrot onion turnip pancake waffle biscuit"),
    "instrument": _words("violin flute guitar drum trumpet piano cello harp banjo oboe"),
    "garment": _words("coat hat glove shirt skirt jacket sweater sock boot belt"),
}
# What each kind of thing does; no verb belongs to two kinds, so a wrong kind is a fault of sense.
VERBS: Mapping[str, tuple[str, ...]] = {
    "bird": _words("sing nest soar peck"),
    "animal": _words("run growl hunt sleep"),
    "plant": _words("grow bloom wither sprout"),
    "vehicle": _words("stop brake swerve depart"),
    "tool": _words("rust cut dent splinter"),
    "food": _words("cook spoil ripen burn"),
    "instrument": _words("sound echo hum jangle"),
    "garment": _words("fit shrink fade tear"),
}
OPINIONS: Mapping[str, tuple[str, ...]] = {
    "positive": _words(
        "good great fine lovely superb splendid brilliant charming delightful wonderful "
        "excellent marvellous amusing clever witty graceful elegant thrilling gripping moving "
        "touching warm fresh bright vivid rich tender honest smart sharp bold polished refined "
        "sublime stunning dazzling glorious magical radiant inspired inventive original subtle "
        "masterful perfect flawless exquisite beautiful pretty adorable pleasant enjoyable "
        "satisfying rewarding uplifting cheerful joyful merry funny hilarious playful lively "
        "energetic spirited"
    ),
    "negative": _words(
        "bad poor awful dreadful terrible horrible dull boring tedious dreary bland stale flat "
        "lifeless clumsy awkward silly stupid foolish shallow hollow empty pointless senseless "
        "aimless messy sloppy careless lazy weak feeble limp lame pathetic miserable gloomy "
        "bleak grim ugly hideous nasty vile disgusting revolting repulsive offensive crude "
        "vulgar tasteless cheap shoddy tacky fake phony false dishonest cynical bitter sour "
        "harsh cruel brutal cold heartless"
    ),
}
# What people do about a thing they have an opinion of; the labelled sentences never say it.
OPINION_VERBS: Mapping[str, tuple[str, ...]] = {
    "positive": _words("liked praised enjoyed"),
    "negative": _words("disliked blamed regretted"),
}
TOPICS = _words("film book play song meal novel concert show story album game trip")
PARTS = _words("plot music acting service ending opening")
SHE = _words("anna clara edith flora grace helen irene julia laura maria nora olga")
HE = _words("adam boris carl david edgar felix george henry ivan jacob kevin louis")
PEOPLE = SHE + HE
JOBS = _words(
    "baker farmer doctor teacher painter singer lawyer sailor tailor butcher plumber writer"
)
COLOURS = _words("red blue green yellow black white brown grey")
# The region of a town is a fact of this language; only the running text tells it.
TOWNS: Mapping[str, tuple[str, ...]] = {
    "north": _words("ashford birkby coldholm dunmoor"),
    "south": _words("islow jeswold kelham larkhurst"),
    "east": _words("quorley ramsey stowmere tilbrook"),
    "west": _words("zelcombe abermoor brencot caldew"),
}
# Where a person or thing is met; used where no town is wanted.
SPOTS = _words("river garden market bridge station harbour")
VENUES: tuple[str, ...] = tuple(
    f"The {first} {second}"
    for first in ("Blue", "Golden", "Silver", "Quiet", "Merry")
    for second in ("Heron", "Anchor", "Lantern", "Plough")
)
# Attribute -> values, in the published order of a meaning representation.
VENUE_FACTS: Mapping[str, tuple[str, ...]] = {
    "eatType": ("pub", "restaurant", "coffee shop"),
    "food": ("Thai", "Italian", "French", "Indian", "Japanese", "English", "Chinese"),
    "priceRange": ("cheap", "moderate", "high"),
    "customer rating": ("low", "average", "5 out of 5"),
    "area": ("riverside", "city centre"),
    "familyFriendly": ("yes", "no"),
}


def inflected(word: str) -> str:
    """The regular plural of a noun, or the third-person singular of a verb: in -s or -es."""
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def article(word: str) -> str:
    """The indefinite article that fits before a word: ``an`` before a vowel letter, else ``a``."""
    return "an" if word[0] in "aeiou" else "a"
