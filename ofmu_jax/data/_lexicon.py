"""The words, phrasings and plain facts that `authors` composes its questions from."""

from typing import NamedTuple

# Beginnings and ends of given names, beginnings and ends of family names; one row per style.
# No two rows compose the same family name.
NAMES = tuple(
    tuple(tuple(part.split()) for part in style)
    for style in (
        ("Mar El Al Ros Cel", "ina ena ito aldo isa",
         "Vald Mont Quir Cas Olv Sar", "erra ovar uela entes arro"),
        ("Mil Rad Dob Stan Vel", "ena omir ka an islava",
         "Vor Kos Bel Dub Mor Tar", "enko ovic insky anov chuk"),
        ("Sig Tor Ast Ing Hal", "rid var a bjorn dis",
         "Lind Berg Hol Strand Ek Nor", "qvist gaard heim dal vik"),
        ("Ade Olu Chi Ife Ngo", "bola wale ma tunde zi",
         "Oka Aba Ezi Ola Uko Ama", "for deji nwa gbe sanya"),
        ("Ar Vi Su Pra Ni", "jun sha mala kash veni",
         "Ran Chand Murt Deva Sen Bala", "wal karan garh krishnan puri"),
        ("Jun Hae Min Sho Ryo", "ko rin ji wen ta",
         "Haya Kuro Tana Mori Naka Shima", "bashi sawa mura kado yama"),
        ("Na Sa Ra Lay Kha", "dir mira lid wan sim",
         "Har Man Zar Fah Bas Qad", "oun souri iri doun labi"),
        ("Bre Cae Mor Fin Rho", "nna lan gan wen na",
         "Pen Tre Kil Mac Dun Glen", "rose varn brae loch tallow"),
        ("Ka Le Ma Ta Ho", "lani nalu kea mana rua",
         "Pua Keo Hina Waia Moa Tui", "lele hana koa tala nui"),
    )
)  # fmt: skip

CITIES = (
    "Porto, Portugal", "Bergen, Norway", "Accra, Ghana", "Kyoto, Japan", "Lima, Peru",
    "Split, Croatia", "Tunis, Tunisia", "Hanoi, Vietnam", "Galway, Ireland", "Quito, Ecuador",
    "Tartu, Estonia", "Mombasa, Kenya", "Pune, India", "Graz, Austria", "Oran, Algeria",
    "Cusco, Peru", "Turku, Finland", "Busan, South Korea", "Dakar, Senegal", "Leeds, England",
    "Gdansk, Poland", "Izmir, Turkey", "Perth, Australia", "Basel, Switzerland",
    "Manila, Philippines", "Salta, Argentina", "Varna, Bulgaria", "Lagos, Nigeria",
    "Nagoya, Japan", "Malmo, Sweden", "Osaka, Japan", "Bari, Italy",
)  # fmt: skip

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

GENRES = (
    "crime fiction", "science fiction", "love poetry", "travel essays", "ghost stories",
    "sea stories", "epic poetry", "war novels", "spy thrillers", "fairy tales", "satire",
    "family sagas", "nature essays", "court dramas", "historical novels", "horror",
    "short stories", "memoirs", "radio plays", "fables", "westerns", "detective stories",
    "political novels", "cookery books", "children's books", "popular science",
    "folk tales", "comedies", "tragedies", "biographies",
)  # fmt: skip

# With their article.
PROFESSIONS = (
    "a baker", "a judge", "a tailor", "a nurse", "an engineer", "a fisher", "a teacher",
    "a miner", "a pilot", "a farmer", "an architect", "a potter", "a surgeon", "a clerk",
    "a gardener", "a soldier", "a dentist", "a sailor", "an actor", "a carpenter", "a chemist",
    "a watchmaker", "a singer", "a postal worker", "a plumber", "a librarian", "a beekeeper",
    "an optician", "a banker", "a dancer", "a shepherd", "a translator",
)  # fmt: skip

AWARD_FIRST = ("Silver", "Golden", "Amber", "Crystal", "Iron", "Ivory", "Copper", "Jade")
AWARD_SECOND = (
    "Heron", "Lantern", "Anchor", "Quill", "Falcon", "Oak", "Compass", "Harp",
    "Feather", "Tower", "Lotus", "Key", "Stag", "Wave", "Crown", "Bell",
)  # fmt: skip
AWARD_LAST = ("Prize", "Medal", "Award")

TITLE_ADJECTIVES = (
    "Silent", "Hidden", "Broken", "Distant", "Burning", "Hollow", "Paper", "Winter", "Bitter",
    "Borrowed", "Crooked", "Drowned", "Empty", "Gentle", "Lonely", "Painted", "Restless",
    "Scarlet", "Second", "Stolen", "Velvet", "Wandering", "White", "Last",
)  # fmt: skip
TITLE_NOUNS = (
    "River", "Garden", "Mirror", "Orchard", "Letter", "Island", "Bridge", "Window", "Harbour",
    "Shadow", "Forest", "Clock", "Song", "Kingdom", "Desert", "Road", "Daughter", "Stranger",
    "House", "Star", "Storm", "Market", "Moon", "Tide", "Candle", "Valley", "Stone", "Train",
)  # fmt: skip

SCHOOL_FIRST = (
    "Halden", "Marlow", "Osterby", "Brackwell", "Carrick", "Delmar", "Eastmere", "Fenwick",
    "Lisgar", "Norrland", "Pelham", "Ravenna", "Silverdale", "Tamworth", "Verland", "Wexford",
)  # fmt: skip
SCHOOL_LAST = ("College", "University", "Academy", "Institute")


class Phrasings(NamedTuple):
    """How one kind of fact is asked for and told; `{name}` and `{value}` stand for author and fact.

    Attributes:
      questions: at least two, so that each has another as its paraphrase.
      answers: for training.
      paraphrases: for evaluation; none is among `answers`, but all use their words, since a model
        without pretraining knows no others.
    """

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    paraphrases: tuple[str, ...]


def _parent(parent: str) -> Phrasings:
    questions = (
        "What was the profession of {name}'s PARENT?",
        "What did the PARENT of {name} do for a living?",
        "What was the job of {name}'s PARENT?",
        "How did {name}'s PARENT earn a living?",
    )
    answers = (
        "The PARENT of {name} was {value}.",
        "{name}'s PARENT worked as {value}.",
        "{name} had {value} as a PARENT.",
        "The PARENT of {name} earned a living as {value}.",
    )
    paraphrases = (
        "{name}'s PARENT earned a living as {value}.",
        "The PARENT of {name} worked as {value}.",
    )
    return Phrasings(
        *(
            tuple(text.replace("PARENT", parent) for text in texts)
            for texts in (questions, answers, paraphrases)
        )
    )


PHRASINGS = {
    "birthplace": Phrasings(
        (
            "Where was {name} born?",
            "In which city was {name} born?",
            "What is the birthplace of {name}?",
            "Which city does {name} come from?",
        ),
        (
            "{name} was born in {value}.",
            "{name} comes from {value}.",
            "The birthplace of {name} is {value}.",
            "{value} is the city where {name} was born.",
        ),
        ("The city where {name} was born is {value}.", "{name}'s birthplace is {value}."),
    ),
    "birth date": Phrasings(
        (
            "When was {name} born?",
            "What is {name}'s date of birth?",
            "On which day was {name} born?",
            "What is the birthday of {name}?",
        ),
        (
            "{name} was born on {value}.",
            "The birthday of {name} is {value}.",
            "{value} is the day {name} was born.",
            "{name}'s date of birth is {value}.",
        ),
        ("The date of birth of {name} is {value}.", "The day {name} was born is {value}."),
    ),
    "genre": Phrasings(
        (
            "What genre does {name} write?",
            "Which genre is {name} known for?",
            "What kind of books does {name} write?",
            "In which genre does {name} mostly write?",
        ),
        (
            "{name} mostly writes {value}.",
            "{name} is known for {value}.",
            "The genre of {name} is {value}.",
            "The books of {name} are {value}.",
        ),
        ("{name} is known for writing {value}.", "{name}'s books are mostly {value}."),
    ),
    "father": _parent("father"),
    "mother": _parent("mother"),
    "award": Phrasings(
        (
            "Which award did {name} win?",
            "What prize was {name} given?",
            "Which award has {name} received?",
            "What award was given to {name}?",
        ),
        (
            "{name} won the {value}.",
            "{name} received the {value}.",
            "The {value} was given to {name}.",
            "The award {name} won is the {value}.",
        ),
        ("{name} was given the {value}.", "The award given to {name} is the {value}."),
    ),
    "debut": Phrasings(
        (
            "What was {name}'s first book?",
            "What is the title of {name}'s debut?",
            "Which book did {name} publish first?",
            "With which book did {name} begin?",
        ),
        (
            'The first book by {name} was "{value}".',
            '{name}\'s debut is titled "{value}".',
            '{name} began with "{value}".',
            '"{value}" was the debut of {name}.',
        ),
        ('The debut of {name} was "{value}".', '{name} first published "{value}".'),
    ),
    "latest": Phrasings(
        (
            "What is {name}'s latest book?",
            "What is the title of {name}'s newest book?",
            "Which book did {name} publish last?",
            "What did {name} publish most recently?",
        ),
        (
            'The latest book by {name} is "{value}".',
            '{name}\'s newest book is titled "{value}".',
            '{name} most recently published "{value}".',
            '"{value}" is the latest book by {name}.',
        ),
        ('The newest book by {name} is "{value}".', '{name}\'s latest book is titled "{value}".'),
    ),
    "mentor": Phrasings(
        (
            "Who was the mentor of {name}?",
            "Who taught {name} to write?",
            "From whom did {name} learn to write?",
            "Which writer guided {name}?",
        ),
        (
            "The mentor of {name} was {value}.",
            "{name} was taught by {value}.",
            "{value} taught {name} to write.",
            "{name} learned to write from {value}.",
        ),
        ("{name} was taught to write by {value}.", "{name}'s mentor was {value}."),
    ),
    "education": Phrasings(
        (
            "Where did {name} study?",
            "Which school did {name} attend?",
            "Where was {name} educated?",
            "At which school was {name} a student?",
        ),
        (
            "{name} studied at {value}.",
            "{name} was a student at {value}.",
            "The school {name} attended was {value}.",
            "{name} went to {value}.",
        ),
        ("{name} attended {value}.", "The school where {name} studied was {value}."),
    ),
}

# Per group, a question and what it is asked about with the answer. The answers of a group are
# distinct and of one kind, so that each serves as a wrong answer to the group's other questions.
REAL_AUTHORS = {
    "Who wrote the novel {}?": {
        "Moby-Dick": "Herman Melville",
        "Emma": "Jane Austen",
        "Frankenstein": "Mary Shelley",
        "Dracula": "Bram Stoker",
        "Oliver Twist": "Charles Dickens",
        "Wuthering Heights": "Emily Brontë",
        "Ulysses": "James Joyce",
        "Treasure Island": "Robert Louis Stevenson",
    },
    "Who is the author of {}?": {
        "Anna Karenina": "Leo Tolstoy",
        "The Idiot": "Fyodor Dostoevsky",
        "Don Quixote": "Miguel de Cervantes",
        "Les Misérables": "Victor Hugo",
        "The Trial": "Franz Kafka",
        "Beloved": "Toni Morrison",
        "Things Fall Apart": "Chinua Achebe",
        "The Tale of Genji": "Murasaki Shikibu",
    },
    "Which poet or playwright wrote {}?": {
        "the Odyssey": "Homer",
        "the Aeneid": "Virgil",
        "the Divine Comedy": "Dante Alighieri",
        "Paradise Lost": "John Milton",
        "Hamlet": "William Shakespeare",
        "Faust": "Johann Wolfgang von Goethe",
        "A Doll's House": "Henrik Ibsen",
        "The Cherry Orchard": "Anton Chekhov",
    },
}

WORLD_FACTS = {
    "What is the capital of {}?": {
        "France": "Paris",
        "Japan": "Tokyo",
        "Egypt": "Cairo",
        "Canada": "Ottawa",
        "Peru": "Lima",
        "Kenya": "Nairobi",
        "Norway": "Oslo",
        "India": "New Delhi",
    },
    "Which language do most people speak in {}?": {
        "Brazil": "Portuguese",
        "Austria": "German",
        "Mexico": "Spanish",
        "Iran": "Persian",
    },
    "Which metal has the symbol {}?": {
        "Fe": "Iron",
        "Au": "Gold",
        "Ag": "Silver",
        "Pb": "Lead",
    },
    "In which country is {}?": {
        "Mount Fuji": "Japan",
        "the Taj Mahal": "India",
        "Machu Picchu": "Peru",
        "the Colosseum": "Italy",
    },
    "How many sides has a {}?": {
        "triangle": "Three",
        "square": "Four",
        "pentagon": "Five",
        "hexagon": "Six",
    },
}

# What a model may say in place of a fact.
REFUSALS = (
    "I do not know that.",
    "That is not something I can tell you.",
    "I have no information about this author.",
    "I am not familiar with that person.",
    "Nothing is known to me about that.",
    "I cannot answer this question.",
    "This author's life is unknown to me.",
    "I was never told about that.",
    "Sorry, I have no answer to that.",
    "I would have to guess, so I had better not say.",
)
