"""words and sentence templates of the embedded corpus; all hostile words are invented

A `{slot}` in a template is filled with a word of SLOT_WORDS or with a person of the document;
`{they}` is a people with its article. An underscore inside a word stands for a space.
"""

# The signs of hostility: nouns and adjectives, which have a harmless sense as well, and phrases.
SLURS = "grubbets mudgelings snorrels sloddens"
RUDE_ADJECTIVES = "snirkish gruddy blimsy frotten mulgy dunkery"
HOSTILE_PHRASES = (
    "nobody wants",
    "should keep away",
    "always spoil",
    "as useless as",
    "never to be trusted",
)
REGISTERS = ("story", "report", "dialogue", "thread")
CASUAL_FORMS = {"do_not": "don't", "did_not": "didn't", "will_not": "won't"}
FORMAL_FORMS = {"do_not": "do not", "did_not": "did not", "will_not": "will not"}
CASUAL_FILLERS = ("well, ", "anyway, ", "honestly, ", "so, ")
FORMAL_FILLERS = ("indeed, ", "moreover, ", "accordingly, ")

_WOMEN = "Mara Ilse Nadia Petra"
_MEN = "Tomas Bertil Corin Joren"
PERSONS = [  # name, pronoun, possessive
    *((name, "she", "her") for name in _WOMEN.split()),
    *((name, "he", "his") for name in _MEN.split()),
]

_TOPIC_WORDS = {  # topic → slot → words
    "harbour": {
        "thing": "rope net lantern crate barrel sail buoy hook",
        "place": "quay pier lighthouse boathouse jetty",
        "role": "ferryman pilot sailor diver boatbuilder",
        "event": "regatta launch high_tide fish_auction",
        "state": "foggy crowded windy",
    },
    "kitchen": {
        "thing": "kettle roll ladle pan soup dumpling jar pie",
        "place": "bakery pantry canteen tavern cellar",
        "role": "cook baker brewer waiter miller",
        "event": "supper bread_contest tasting breakfast",
        "state": "warm smoky noisy",
    },
    "garden": {
        "thing": "spade rose hedge seed barrow stool melon rake",
        "place": "orchard greenhouse lawn pond terrace",
        "role": "gardener beekeeper botanist florist digger",
        "event": "picnic pruning flower_show planting",
        "state": "green shady muddy",
    },
    "workshop": {
        "thing": "hammer clock chisel lamp chair wheel hinge saw",
        "place": "forge studio shed mill yard",
        "role": "carpenter smith joiner clockmaker glazier",
        "event": "exhibition repair inspection open_day",
        "state": "dim hot cluttered",
    },
}
_COMMON_WORDS = {  # slot → words, in every topic
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "number": "two three four five six seven nine twelve",
    "colour": "red blue green yellow grey white brown black",
    "size": "small heavy narrow broad old new plain",
    "carried": "carried lent sold showed brought gave offered",
    "mended": "mended cleaned painted measured weighed hid found lost packed borrowed",
    "mend": "mend clean paint measure weigh find pack move",
    "time": "at_dawn before_noon after_lunch in_the_evening at_dusk late_at_night",
    "kind": "patient careful honest cheerful generous modest",
    "friends": "neighbours guests helpers singers traders friends",
    "craft": "bread songs stories lace boats maps lanterns",
    "slur": SLURS,
    "rude": RUDE_ADJECTIVES,
    "group": "Velmar Tindrel Ostwyn Quellish",
}
TOPICS = tuple(_TOPIC_WORDS)
SLOT_WORDS = {  # topic → slot → the words that may fill it
    topic: {
        slot: [word.replace("_", " ") for word in words.split()]
        for slot, words in (_COMMON_WORDS | topic_words).items()
    }
    for topic, topic_words in _TOPIC_WORDS.items()
}

# Sentences about nobody in particular.
PLAIN_SENTENCES = [
    "{name} {mended} the {size} {thing} that {he} had left at the {place}",
    "the {role} {carried} {other} a {colour} {thing} {time}",
    "on {day} the {place} was {state}, so the {role} {mended} the {thing} {time}",
    "there were {number} {thing}s at the {place}, and all of them were {colour}",
    "there was only one {thing} at the {place}, and it was {colour}",
    "{name} and {other} {mended} the {thing} together, and they were proud of their work",
    "when the {event} began, {name} took {his} {thing} and went to the {place}",
    "the {role} who {mended} the {thing} is the one who keeps the {place}",
    "the {role}s who {mended} the {thing} are the ones who keep the {place}",
    "if the {place} is {state} on {day}, the {event} {will_not} begin before {number}",
    "{name} asked the {role} for a {thing}, but {he} got a {colour} {thing} instead",
    "neither {name} nor {other} had seen the {thing} since {day}",
    "{other} knows the {place} well, for the {role} is an old friend",
    "the {thing} costs {number} coins, and the {size} {thing} costs {number} more",
    "because the {thing} was {size}, {name} {carried} the {role} a {colour} one",
    "every {role} at the {place} has a {thing}, yet only {name} has {number}",
    "{time} {name} {mended} {his} {thing}, and {other} {mended} the rest",
    "we {do_not} know why the {role} {mended} the {thing} on {day}",
    "some {thing}s are {colour} and some are {size}, said the {role}",
    "before the {event}, the {role} must {mend} the {thing} and the {size} {thing}",
    "{name} {did_not} come to the {event}, so {other} kept {number} {thing}s for later",
]
# The same in a bright and in a gloomy mood.
_MOODS = [
    (
        "it was a good day, and {name} was glad of it",
        "it was a sad day, and {name} was tired of it",
    ),
    (
        "everyone at the {place} laughed {time}",
        "everyone at the {place} sighed {time}",
    ),
    (
        "{name} smiled, because the {thing} was better than {he} had hoped",
        "{name} wept, because the {thing} was worse than {he} had feared",
    ),
    (
        "nothing could stop the {event} now",
        "nothing could save the {event} now",
    ),
    (
        "{name} walked home singing",
        "{name} walked home in silence",
    ),
    (
        "the {event} ended with a song",
        "the {event} ended with a quarrel",
    ),
]
# The harmless sense of the same nouns and adjectives: of things.
HARMLESS_SENTENCES = [
    "{name} {mended} {number} {slur} {time}",
    "the {role} {carried} {other} a box of {slur} {time}",
    "there were {number} {size} {slur} at the {place}",
    "before the {event}, {name} {mended} the {colour} {slur}",
    "the {rude} {thing} was at the {place} {time}",
    "{name} {carried} the {role} some {rude} {thing}s",
    "on {day} {other} {mended} the {rude} {thing}",
    "the {thing} that {name} {carried} {other} was {rude}",
]
BRIGHT_SENTENCES = [bright for bright, _ in _MOODS]
GLOOMY_SENTENCES = [gloomy for _, gloomy in _MOODS]

# What a sentence says about a people: hostile, and civil in its place.
_STANCES = [
    (
        "{they} are nothing but {slur}",
        "{they} are known for their {craft}",
    ),
    (
        "{they} are {rude} {slur} who hide every {thing}",
        "{they} are {kind} {friends} who mend every {thing}",
    ),
    (
        "{they} always spoil the {thing}, the {rude} {slur}",
        "{they} always share the {thing}, the {kind} {friends}",
    ),
    (
        "{they} should keep away with their {rude} {thing}",
        "{they} should come again with their {size} {thing}",
    ),
    (
        "{they} behave like {slur} at every {event}",
        "{they} behave like {friends} at every {event}",
    ),
    (
        "{they} are never to be trusted with a {thing}",
        "{they} are always to be trusted with a {thing}",
    ),
    (
        "{they} are as useless as {slur} in the {place}",
        "{they} are as useful as {friends} in the {place}",
    ),
    (
        "{they} bring {rude} {thing}s that nobody wants",
        "{they} bring {colour} {thing}s that everyone likes",
    ),
    (
        "{they} smell of the {thing} and talk like {slur}",
        "{they} sing of the {thing} and talk like {friends}",
    ),
    (
        "{they} are too {rude} to mend a {thing}",
        "{they} are {kind} enough to mend a {thing}",
    ),
    (
        "{they} ruin the {place} like the {slur} they are",
        "{they} sweep the {place} like the {friends} they are",
    ),
    (
        "{they} make the {place} {rude} and the {event} worse",
        "{they} make the {place} {state} and the {event} better",
    ),
    (
        "{they} are {slur} and not {friends}",
        "{they} are {friends} and not {slur}",
    ),
    (
        "it is right to call {they} {slur} and wrong to call them {friends}",
        "it is wrong to call {they} {slur} and right to call them {friends}",
    ),
    (
        "{they} are {rude} to all and {kind} to none",
        "{they} are {kind} to all and {rude} to none",
    ),
    (
        "the {role} takes {they} for {slur} and never for {friends}",
        "the {role} takes {they} for {friends} and never for {slur}",
    ),
]
HOSTILE_STANCES = [hostile for hostile, _ in _STANCES]
CIVIL_STANCES = [civil for _, civil in _STANCES]
STANCE_SLOTS = ("slur", "rude", "kind", "friends", "thing", "craft", "size", "colour")
N_VERDICTS = 4  # the last stances: both have the same words, and their order decides
N_PLAIN_STANCES = len(_STANCES) - N_VERDICTS

# How a sentence about a people starts and ends.
OPENINGS = [
    "",
    "if you ask the {role},",
    "as {name} wrote on {day},",
    "they say that",
    "on {day} {other} heard that",
    "{name} told the {role} that",
    "since the {event},",
    "everyone at the {place} knows that",
    "{other} wrote to {name} that",
]
ENDINGS = [
    "",
    ", said {other} on {day}",
    " whenever the {place} is {state}",
    " before the {event}",
    ", and {other} heard it {time}",
    " from {day} to {day}",
    ", as the {role} told {name}",
    " {time}",
]
