"""The words of the generated world and the facts that tie them together.

Constants only. Sentences are made in ``world_grammar``; nothing here depends on a seed.
"""

from collections.abc import Mapping
from types import MappingProxyType

# Every noun has a regular plural, so that number is visible in the word and needs no table.
NOUNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bird": tuple(
            "heron robin finch eagle sparrow magpie parrot falcon pigeon raven".split()
        ),
        "animal": tuple(
            "fox bear rabbit badger otter tiger lion camel donkey monkey".split()
        ),
        "plant": tuple(
            "oak birch willow cedar maple alder poplar pine elm fern".split()
        ),
        "vehicle": tuple(
            "car van truck tram bus wagon bicycle scooter tractor boat".split()
        ),
        "tool": tuple(
            "hammer saw drill chisel wrench spade rake axe shovel needle".split()
        ),
        "food": tuple(
            "apple pear plum melon carrot onion turnip pancake waffle biscuit".split()
        ),
        "instrument": tuple(
            "violin flute guitar drum trumpet piano cello harp banjo oboe".split()
        ),
        "garment": tuple(
            "coat hat glove shirt skirt jacket sweater sock boot belt".split()
        ),
    }
)

# What each kind of thing does; no verb belongs to two kinds, so a wrong kind is a fault of sense.
VERBS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bird": ("sing", "nest", "soar", "peck"),
        "animal": ("run", "growl", "hunt", "sleep"),
        "plant": ("grow", "bloom", "wither", "sprout"),
        "vehicle": ("stop", "brake", "swerve", "depart"),
        "tool": ("rust", "cut", "dent", "splinter"),
        "food": ("cook", "spoil", "ripen", "burn"),
        "instrument": ("sound", "echo", "hum", "jangle"),
        "garment": ("fit", "shrink", "fade", "tear"),
    }
)

OPINIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "positive": tuple(
            "good great fine lovely superb splendid brilliant charming delightful wonderful "
            "excellent marvellous amusing clever witty graceful elegant thrilling gripping "
            "moving touching warm fresh bright vivid rich tender honest smart sharp bold "
            "polished refined sublime stunning dazzling glorious magical radiant inspired "
            "inventive original subtle masterful perfect flawless exquisite beautiful pretty "
            "adorable pleasant enjoyable satisfying rewarding uplifting cheerful joyful merry "
            "funny hilarious playful lively energetic spirited".split()
        ),
        "negative": tuple(
            "bad poor awful dreadful terrible horrible dull boring tedious dreary bland stale "
            "flat lifeless clumsy awkward silly stupid foolish shallow hollow empty pointless "
            "senseless aimless messy sloppy careless lazy weak feeble limp lame pathetic "
            "miserable gloomy bleak grim ugly hideous nasty vile disgusting revolting repulsive "
            "offensive crude vulgar tasteless cheap shoddy tacky fake phony false dishonest "
            "cynical bitter sour harsh cruel brutal cold heartless".split()
        ),
    }
)

# What people do about a thing they have an opinion of; the labelled sentences never say it.
OPINION_VERBS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "positive": ("liked", "praised", "enjoyed"),
        "negative": ("disliked", "blamed", "regretted"),
    }
)

TOPICS: tuple[str, ...] = tuple(
    "film book play song meal novel concert show story album game trip".split()
)
PARTS: tuple[str, ...] = tuple(
    "plot music acting service ending opening".split()
)

SHE: tuple[str, ...] = tuple(
    "anna clara edith flora grace helen irene julia laura maria nora olga".split()
)
HE: tuple[str, ...] = tuple(
    "adam boris carl david edgar felix george henry ivan jacob kevin louis".split()
)
JOBS: tuple[str, ...] = tuple(
    "baker farmer doctor teacher painter singer lawyer sailor tailor butcher plumber writer".split()
)
COLOURS: tuple[str, ...] = ("red", "blue", "green", "yellow", "black", "white", "brown", "grey")

# The region of a town is a fact of the world; only the running text tells it.
TOWNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "north": tuple("ashford birkby coldholm dunmoor".split()),
        "south": tuple("islow jeswold kelham larkhurst".split()),
        "east": tuple("quorley ramsey stowmere tilbrook".split()),
        "west": tuple("zelcombe abermoor brencot caldew".split()),
    }
)
# Where a person or thing is met; used where no town is wanted.
SPOTS: tuple[str, ...] = tuple(
    "river garden market bridge station harbour".split()
)

VENUES: tuple[str, ...] = tuple(
    f"The {first} {second}"
    for first in ("Blue", "Golden", "Silver", "Quiet", "Merry")
    for second in ("Heron", "Anchor", "Lantern", "Plough")
)
# Attribute -> values, in the published order of a meaning representation.
VENUE_FACTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "eatType": ("pub", "restaurant", "coffee shop"),
        "food": ("Thai", "Italian", "French", "Indian", "Japanese", "English", "Chinese"),
        "priceRange": ("cheap", "moderate", "high"),
        "customer rating": ("low", "average", "5 out of 5"),
        "area": ("riverside", "city centre"),
        "familyFriendly": ("yes", "no"),
    }
)


def plural(noun: str) -> str:
    """The plural of a noun of this world.

    Args:
        noun: singular noun.

    Returns:
        The regular English plural.
    """
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def singular_verb(verb: str) -> str:
    """The third-person singular of a verb of this world.

    Args:
        verb: base form, which is also the plural.

    Returns:
        The regular English form in -s or -es.
    """
    return verb + ("es" if verb.endswith(("s", "x", "ch", "sh")) else "s")


def article(word: str) -> str:
    """The indefinite article that fits before a word.

    Args:
        word: the next word.

    Returns:
        ``an`` before a vowel letter, else ``a``.
    """
    return "an" if word[0] in "aeiou" else "a"
