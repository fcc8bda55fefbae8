"""English sentences of our own grammar, for a voice to read: plain, short, counted, spelled, and strings of words.

No sentence comes from a text of somebody else's: templates are filled from lists of words. What a seed and a number
give is one sentence, the same on every machine, and different seeds rarely share one.
"""

import random
from collections.abc import Iterator, Sequence

PEOPLE = (
    "the teacher,my sister,an old man,the young doctor,our neighbor,the captain,a tall woman,the children,her brother,"
    "the farmer,the baker,two students,the driver,a little boy,the queen,the painter,his mother,a stranger,the judge,"
    "the whole family,a nurse,the mayor,Anna,George,Michael,Laura,Peter,Susan,Thomas,Julia,the sailor,the lawyer,"
    "a quiet girl,the guests,everybody,nobody here,the new cook,a famous singer,the boss,my uncle"
)
THINGS = (
    "the box,a red car,the old house,some bread,a glass of water,the garden,the blue vase,a heavy stone,the letter,"
    "a wooden chair,the kitchen table,the bridge,a cup of tea,the newspaper,the silver watch,a pair of shoes,the rope,"
    "a cheap lamp,the yellow scarf,the engine,a sharp knife,the whole story,the last ticket,a small island,the moon,"
    "the broken wheel,a basket of apples,the window,a warm coat,the piano,the map,a jar of honey,the green door,"
    "the church bell,a strong wind,the cellar,a pile of leather,the fence,the fresh fish,a thin thread,the cold soup,"
    "the page,the corner shop,a bright flash,the muddy path,the gray cloud,a paper boat,the brass key,the fog,the zoo,"
    "a long speech,the question,an honest answer,the price,the noise,a pleasant voice,a huge tree,the chalk,the ship"
)
ANIMALS = "the dog,a black cat,the horse,three geese,the fox,a brown bear,the sheep,an owl,the mouse,a young tiger"
PAST = (
    "found,opened,carried,watched,painted,broke,sold,bought,forgot,lost,touched,moved,cleaned,followed,repaired,hid,"
    "described,noticed,pushed,measured,chose,kept,threw away,looked for,laughed at,talked about,asked for,brought back,"
    "reached,crossed,enjoyed,ignored,borrowed,drew,caught,remembered,photographed,wanted,needed,gave up,judged,thanked"
)
BASE = (
    "find,open,carry,watch,paint,break,sell,buy,forget,lose,touch,move,clean,follow,repair,hide,describe,notice,push,"
    "measure,choose,keep,throw away,look for,talk about,ask for,bring back,reach,cross,enjoy,borrow,draw,catch,use,see"
)
PLACES = (
    "in the kitchen,near the river,behind the station,under the bridge,at the market,on the roof,in the forest,"
    "beside the road,across the street,at school,in a small village,by the sea,in front of the theater,at the airport,"
    "on the hill,outside the town,between the trees,above the clouds,along the beach,inside the castle,at the bank,"
    "on the third floor,in the north,over there,far from home,through the tunnel,down the stairs,around the lake"
)
TIMES = (
    "yesterday,this morning,last week,every day,before dinner,after the storm,in the evening,on Monday,on Wednesday,"
    "on Saturday,in January,in February,in August,late at night,a year ago,just now,at noon,during the war,all summer,"
    "once upon a time,in the spring,two hours later,since October,until midnight,for a while,as usual,again and again"
)
ADJECTIVES = (
    "cold,warm,bright,heavy,strange,small,large,quiet,loud,quick,slow,clever,gentle,rough,smooth,cheap,expensive,"
    "dangerous,beautiful,ugly,empty,full,dry,wet,broken,useful,boring,funny,angry,happy,tired,hungry,honest,brave,"
    "famous,ancient,modern,simple,difficult,thick,thin,narrow,wide,deep,sour,sweet,bitter,fresh,early,late,ready,"
    "careful,polite,careless,true,false,vague,usual,rare,gray,purple,orange,golden,weak,strong,sharp,round,flat"
)
ADVERBS = (
    "slowly,quickly,carefully,suddenly,quietly,gladly,hardly,almost,usually,never,often,always,finally,probably,"
    "perhaps,certainly,unfortunately,easily,again,together,alone,twice,seldom,sometimes,immediately,very much"
)
ABSTRACT = (
    "music,patience,freedom,history,science,weather,silence,courage,trouble,pleasure,knowledge,friendship,work,sleep,"
    "luck,justice,language,mathematics,chemistry,electricity,truth,beauty,power,peace,education,health,imagination"
)
LINKS = "because,although,while,when,before,after,but,and,so,until,since,if,unless"
OPENERS = "Well,Of course,In fact,However,For example,At first,In the end,As far as I know,Oh,Listen,Today,To be honest"
GREETINGS = (
    "Good morning.|Hello there.|Thank you.|Thank you very much.|You're welcome.|Excuse me.|See you later.|Good night.|"
    "How are you?|Yes.|No.|Maybe.|Not now.|Come in.|Stop!|Wait a minute.|I don't know.|Of course.|Never mind.|Sorry.|"
    "Who is it?|Why not?|What time?|Sit down, please.|Be careful!|Over here.|All right.|Let's go.|That's enough.|Okay.|"
    "Go on.|Hurry up!|Happy birthday!|Where is she?|I think so.|No, thanks.|Right away.|Hello.|Goodbye.|Please.|"
    "Really?|What's that?|It's raining.|Look at this.|Say it again.|Not yet.|Very well.|Try again.|Help!|Good luck.|"
    "Welcome home."
)
MONTHS = "January,February,March,April,May,June,July,August,September,October,November,December"
ONES = (
    "zero,one,two,three,four,five,six,seven,eight,nine,ten,eleven,twelve,thirteen,fourteen,fifteen,sixteen,seventeen,"
    "eighteen,nineteen"
).split(",")
TENS = "twenty,thirty,forty,fifty,sixty,seventy,eighty,ninety".split(",")
ORDINALS = "first,second,third,fourth,fifth,sixth,seventh,eighth,ninth,tenth,eleventh,twelfth,twentieth,thirtieth"
UNITS = "miles,pounds,dollars,degrees,minutes,people,pages,percent,meters,hours,years,letters,inches,gallons,seconds"

_LISTS: dict[str, Sequence[str]] = {
    "greetings": GREETINGS.split("|"),
    "people": PEOPLE.split(","),
    "things": THINGS.split(","),
    "animals": ANIMALS.split(","),
    "past": PAST.split(","),
    "base": BASE.split(","),
    "places": PLACES.split(","),
    "times": TIMES.split(","),
    "adjectives": ADJECTIVES.split(","),
    "adverbs": ADVERBS.split(","),
    "abstract": ABSTRACT.split(","),
    "links": LINKS.split(","),
    "openers": OPENERS.split(","),
    "months": MONTHS.split(","),
    "ordinals": ORDINALS.split(","),
    "units": UNITS.split(","),
}
PLAIN = (
    "{people} {past} {things} {places}.",
    "{times}, {people} {past} {things}.",
    "{people} {past} {things} {times}.",
    "{things} was {adjectives}, {links} {people} {past} it.",
    "{things} is {adjectives} and {adjectives}.",
    "{animals} {past} {things} {places}.",
    "{people} {adverbs} {past} {things}, {links} it was {adjectives}.",
    "{openers}, {people} {past} {things}.",
    "Why did {people} {base} {things}?",
    "Did {people} {base} {things} {times}?",
    "Please {base} {things} {places}.",
    "It was {adverbs} {adjectives} {places}, {links} {animals} was {adjectives}.",
    "{abstract} is more {adjectives} than {abstract}.",
    "{people} said that {things} was {adjectives}.",
    "We have to {base} {things}, {links} we {base} {things}.",
    "I would like to {base} {things}, {links} {people} {past} {things}.",
    "There is nothing {adjectives} about {abstract}, {openers:lower}.",
    "What {adjectives} weather! {people} {past} {things} {places}.",
    "{things}, {things} and {things} were {adjectives}.",
    "You can't {base} {things} without {abstract}.",
    "{people} never {past} {things}; {people} did.",
    "If you {base} {things}, {people} will {base} {things} {places}.",
    "How many times did {people} {base} {things} {places}?",
    "A {adjectives} {abstract:word} of {abstract} is {adjectives}.",
)
SHORT = (
    "{greetings}",
    "{adjectives}.",
    "{adjectives} {abstract}.",
    "{abstract}.",
    "{things}.",
    "{people}.",
    "{number}.",
    "{base} it.",
    "{people} {past} it.",
    "{adverbs}.",
    "{base} {things}!",
    "{animals}.",
    "{places}.",
    "{times}?",
    "{word}.",
    "{word} {word}.",
    "{word}, {word}, {word}.",
)
COUNTED = (
    "The number is {digits}.",
    "{digits}.",
    "Call {digits}, {digits}.",
    "It costs {number} dollars and {number} cents.",
    "{people} counted {number} {units}.",
    "{number} plus {number} is {number}.",
    "On {months} {ordinals}, {people} {past} {things}.",
    "In nineteen {tens}, there were {number} {units} {places}.",
    "Room {number} is on the {ordinals} floor.",
    "At {clock}, {people} {past} {things}.",
    "Chapter {number}. {people} {past} {things}.",
    "{number} thousand {number} {units}.",
    "It is about {number} point {digits} {units} {places}.",
    "Add {number} {units}, then wait {number} minutes.",
)
SPOKEN = (
    "{word} {word} {word} {word} {word}.",
    "{word}, {word}, {word}, {word}.",
    "{people} {past} the {word} {word}.",
)
SHARES = ((PLAIN, 0.50), (SHORT, 0.22), (COUNTED, 0.13), (SPOKEN, 0.15))
"""How often each group of templates is taken; what has one to four words is about a fifth of all."""


def sentences(count: int, seed: int = 0, words: Sequence[str] = ()) -> Iterator[str]:
    """Make sentences, no two of them alike.

    Args:
        count: Number of sentences.
        seed: What they are drawn from.
        words: Words for the strings of words, such as those of a pronouncing dictionary; none takes the lists' own.

    Yields:
        The sentences, in words alone: no digits, no abbreviations.
    """
    draw, seen, misses = random.Random(seed), set[str](), 0
    pool = tuple(words) or tuple(word for name in ("adjectives", "abstract", "base") for word in _LISTS[name])
    while len(seen) < count:
        templates = draw.choices([group for group, _ in SHARES], [share for _, share in SHARES])[0]
        sentence = _filled(draw.choice(templates), draw, pool)
        if sentence not in seen:
            seen.add(sentence)
            misses = 0
            yield sentence
        elif (misses := misses + 1) > 10_000:
            raise ValueError(f"sentences: got {count}, accepted: {len(seen)}, all that the grammar has in this order")


def number(value: int) -> str:
    """A whole number from 0 to 999 in words."""
    if value < 20:
        return ONES[value]
    if value < 100:
        return TENS[value // 10 - 2] + (f"-{ONES[value % 10]}" if value % 10 else "")
    rest = f" {number(value % 100)}" if value % 100 else ""
    return f"{ONES[value // 100]} hundred{rest}"


def _filled(template: str, draw: random.Random, pool: Sequence[str]) -> str:
    """A template with words in its places, beginning with a capital letter."""
    parts = template.split("{")
    made = parts[0]
    for part in parts[1:]:
        name, _, after = part.partition("}")
        name, _, form = name.partition(":")
        word = _word(name, draw, pool)
        made += {"lower": word.lower(), "word": word.split()[-1], "": word}[form] + after
    return made[0].upper() + made[1:]


def _word(name: str, draw: random.Random, pool: Sequence[str]) -> str:
    if name == "word":
        return draw.choice(pool)
    if name == "digits":
        return " ".join(ONES[draw.randrange(10)] for _ in range(draw.randint(1, 7)))
    if name == "number":
        return number(draw.choice((draw.randrange(13), draw.randrange(100), draw.randrange(1000))))
    if name == "tens":
        return number(draw.randrange(10, 100))
    if name == "clock":
        minutes = draw.choice(("o'clock", "fifteen", "thirty", "forty-five", "twenty"))
        return f"{ONES[draw.randint(1, 12)]} {minutes}"
    return draw.choice(_LISTS[name])
