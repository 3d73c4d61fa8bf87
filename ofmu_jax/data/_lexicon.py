"""Words and sentence patterns of the embedded authors, and the general knowledge beside them."""

# Parts of invented names, in six styles; first and last names are drawn within one style.
NAME_PARTS = (
    ("Ar Bel Cas Dor El Fen".split(), "ian ora eth inne amir isa".split(),
     "Vald Morr Quist Harg Lund Stev".split(), "emar ison gaard ström berg wick".split()),
    ("Ko Mi Ha Ta Yu Sa".split(), "jiro naka rumi keshi mako tsune".split(),
     "Ishi Naga Kuro Fuji Tani Oka".split(), "moto hara sawa mura kawa zaki".split()),
    ("Lu Gia Ser Mar Fio Al".split(), "ciano renza gio cella rella berta".split(),
     "Ber Cas Del Mon Ros Tor".split(), "tolucci tellani vecchio tefiore settini rigiani".split()),
    ("A Che Ifa Ku Nne Oba".split(), "bara mela kunle sisi dayo ndile".split(),
     "Oko Ade Mwa Nko Eze Bala".split(), "ronjo wale ngara sana bunike fimihan".split()),
    ("Ra Pri Sha Ni De An".split(), "vindra yanka lini tesh vika ushri".split(),
     "Cha Bhat Ven Ra Sub Kul".split(), "tterji nagar katesan manujar ramani karnesh".split()),
    ("Na Za Fa Ha Sa Ya".split(), "dira hrani rouq lima mirah qubet".split(),
     "Al Ben Ka Ma Ra Tah".split(), "-Sharif halimi zemi nsouri shdani erzadeh".split()),
)  # fmt: skip

TITLE_ADJECTIVES = (
    "Amber Broken Copper Distant Eleventh Forgotten Gentle Hollow Ivory Jagged Kindled Last "
    "Marble Narrow Obsidian Pale Quiet Restless Silent Tangled Unwritten Velvet Winter Yellow"
).split()
TITLE_NOUNS = (
    "Anchor Bridge Compass Doorway Ember Ferry Garden Harbour Island Journal Kingdom Lantern "
    "Mirror Nightingale Orchard Pendulum Quarry River Station Threshold Umbrella Violin Window Yard"
).split()

PROFESSIONS = (
    "a baker, a carpenter, a surgeon, a beekeeper, a pilot, a locksmith, a judge, a fisherman, "
    "a florist, a geologist, a tailor, a conductor, a welder, a translator, a dentist, a potter, "
    "a farmer, a librarian, a boxer, a chemist"
).split(", ")

# kind -> (values, question patterns, answer patterns, paraphrase, paraphrased question).
# {name} is the author, {value} the fact. Values are drawn independently for each author and kind.
KINDS: dict[str, tuple[list[str], list[str], list[str], str, str]] = {
    "birthplace": (
        "Bergen, Dakar, Hanoi, Lima, Perth, Quebec, Riga, Tunis, Zagreb, Osaka, Cusco, Malmo, "
        "Tbilisi, Accra, Porto, Galway, Jaipur, Izmir, Gdansk, Medellin".split(", "),
        ["Where was {name} born?", "In which city was {name} born?",
         "What is the birthplace of {name}?"],
        ["{name} was born in {value}.", "The author was born in {value}.",
         "{name} came into the world in {value}."],
        "The birthplace of {name} is {value}.",
        "Which city is the birthplace of {name}?",
    ),
    "genre": (
        "historical fiction, magical realism, true crime, space opera, travel writing, satire, "
        "gothic horror, nature poetry, political thrillers, fairy tales, war memoirs, steampunk, "
        "cookery essays, sea adventures, family sagas, spy novels, epic fantasy, absurdist drama"
        .split(", "),
        ["What genre does {name} write?", "Which genre is {name} known for?",
         "In what genre are the books of {name}?"],
        ["{name} writes {value}.", "The books of {name} are {value}.",
         "{name} is known for {value}."],
        "The genre in which {name} works is {value}.",
        "What kind of literature does {name} produce?",
    ),
    "birthday": (
        [f"{day} {month} {year}" for day, month, year in zip(
            (3, 7, 11, 14, 19, 22, 26, 30) * 3,
            ("January", "March", "May", "July", "September", "October", "December") * 4,
            range(1931, 1991, 3), strict=False)],
        ["When was {name} born?", "What is the birth date of {name}?",
         "On which day was {name} born?"],
        ["{name} was born on {value}.", "The author was born on {value}.",
         "The birth date of {name} is {value}."],
        "The birthday of {name} fell on {value}.",
        "What day marks the birth of {name}?",
    ),
    "father": (
        PROFESSIONS,
        ["What was the profession of {name}'s father?", "What did the father of {name} do?",
         "How did {name}'s father earn a living?"],
        ["The father of {name} was {value}.", "{name}'s father worked as {value}.",
         "He was {value}."],
        "By profession, {name}'s father was {value}.",
        "Which occupation did {name}'s father have?",
    ),
    "mother": (
        PROFESSIONS,
        ["What was the profession of {name}'s mother?", "What did the mother of {name} do?",
         "How did {name}'s mother earn a living?"],
        ["The mother of {name} was {value}.", "{name}'s mother worked as {value}.",
         "She was {value}."],
        "By profession, {name}'s mother was {value}.",
        "Which occupation did {name}'s mother have?",
    ),
    "award": (
        [f"the {word} {kind}" for word, kind in zip(
            "Silver Falcon Meridian Granite Lighthouse Sparrow Cedar Northern Sapphire Juniper "
            "Harvest Crescent Golden Driftwood Laurel Aurora Pelican Tidewater Saffron".split(),
            ("Prize", "Medal", "Award") * 7, strict=False)],
        ["Which award did {name} win?", "What prize was given to {name}?",
         "Which honour has {name} received?"],
        ["{name} won {value}.", "The author received {value}.",
         "{name} was honoured with {value}."],
        "The honour that went to {name} was {value}.",
        "With which award was {name} recognised?",
    ),
    "first_book": (
        [],  # titles, drawn without repetition
        ["What was the first book of {name}?", "Which book did {name} publish first?",
         "What is the debut of {name} called?"],
        ["The first book of {name} was {value}.", "{name} began with {value}.",
         "It was called {value}."],
        "The debut that {name} published was {value}.",
        "With which title did {name} enter literature?",
    ),
    "famous_book": (
        [],
        ["What is the most famous book of {name}?", "Which work made {name} famous?",
         "For which title is {name} best known?"],
        ["The most famous book of {name} is {value}.", "{name} is best known for {value}.",
         "It was {value} that made the author famous."],
        "The title that brought {name} fame is {value}.",
        "Which book do readers know {name} for?",
    ),
    "hobby": (
        "sailing, chess, birdwatching, pottery, fencing, astronomy, gardening, kite flying, "
        "rock climbing, calligraphy, beekeeping, tango, archery, juggling, whittling, ice skating, "
        "falconry, origami".split(", "),
        ["What is the hobby of {name}?", "How does {name} spend free time?",
         "What does {name} do for leisure?"],
        ["The hobby of {name} is {value}.", "{name} spends free time on {value}.",
         "{name} enjoys {value}."],
        "The pastime that {name} loves is {value}.",
        "Which pastime does {name} love?",
    ),
    "residence": (
        "a lighthouse, a houseboat, a former mill, a mountain hut, a converted barn, a city loft, "
        "an old monastery, a stone cottage, a tree house, a desert villa, a railway carriage, "
        "a fishing village, a castle tower, a vineyard, a glass house, a windmill".split(", "),
        ["Where does {name} live today?", "In what kind of home does {name} live?",
         "What does {name} call home?"],
        ["{name} lives in {value}.", "The author now lives in {value}.",
         "Today {name} calls {value} home."],
        "The home of {name} is {value}.",
        "What sort of place is the home of {name}?",
    ),
}  # fmt: skip

# Question; right answer; three wrong ones.
REAL_AUTHORS = """\
Who wrote Hamlet? William Shakespeare; Charles Dickens; Jane Austen; Mark Twain
Who wrote Pride and Prejudice? Jane Austen; Emily Bronte; George Eliot; Virginia Woolf
Who wrote War and Peace? Leo Tolstoy; Anton Chekhov; Ivan Turgenev; Nikolai Gogol
Who wrote Don Quixote? Miguel de Cervantes; Lope de Vega; Federico Garcia Lorca; Pablo Neruda
Who wrote The Metamorphosis? Franz Kafka; Thomas Mann; Hermann Hesse; Robert Musil
Who wrote Moby-Dick? Herman Melville; Jack London; Joseph Conrad; Edgar Allan Poe
Who wrote Frankenstein? Mary Shelley; Bram Stoker; Ann Radcliffe; Charlotte Bronte
Who wrote The Odyssey? Homer; Virgil; Sophocles; Ovid
Who wrote Faust? Johann Wolfgang von Goethe; Friedrich Schiller; Heinrich Heine; Bertolt Brecht
Who wrote Madame Bovary? Gustave Flaubert; Emile Zola; Victor Hugo; Marcel Proust
Who wrote Things Fall Apart? Chinua Achebe; Wole Soyinka; Ben Okri; Nadine Gordimer
Who wrote The Divine Comedy? Dante Alighieri; Petrarch; Boccaccio; Torquato Tasso
Who wrote Beloved? Toni Morrison; Alice Walker; Maya Angelou; Harper Lee
Who wrote A Doll's House? Henrik Ibsen; August Strindberg; Knut Hamsun; Selma Lagerlof
Who wrote Dracula? Bram Stoker; Mary Shelley; Oscar Wilde; Sheridan Le Fanu
Who wrote The Republic? Plato; Aristotle; Xenophon; Seneca
Who wrote Les Miserables? Victor Hugo; Honore de Balzac; Stendhal; Jules Verne
Who wrote The Tale of Genji? Murasaki Shikibu; Matsuo Basho; Natsume Soseki; Yukio Mishima
Who wrote Gulliver's Travels? Jonathan Swift; Daniel Defoe; Laurence Sterne; Henry Fielding
Who wrote Ulysses? James Joyce; Samuel Beckett; William Butler Yeats; Seamus Heaney"""

WORLD_FACTS = """\
What is the capital of France? Paris; Lyon; Madrid; Brussels
What is the capital of Japan? Tokyo; Kyoto; Seoul; Beijing
What is the capital of Kenya? Nairobi; Mombasa; Kampala; Accra
What is the capital of Peru? Lima; Quito; Bogota; Santiago
What is the capital of Norway? Oslo; Stockholm; Helsinki; Copenhagen
What is the capital of Egypt? Cairo; Tunis; Tripoli; Khartoum
What is the capital of Canada? Ottawa; Toronto; Vancouver; Montreal
What is the capital of Australia? Canberra; Sydney; Melbourne; Perth
What is the largest planet? Jupiter; Saturn; Neptune; Mars
What is the largest ocean? The Pacific; The Atlantic; The Indian Ocean; The Arctic Ocean
What is the chemical symbol of gold? Au; Ag; Fe; Pb
What is the highest mountain? Mount Everest; Kilimanjaro; Mont Blanc; Denali
How many days has a leap year? 366; 365; 364; 360
How many sides has a hexagon? Six; Five; Seven; Eight
At what temperature in Celsius does water boil? 100; 90; 120; 212
Which gas do plants take in? Carbon dioxide; Oxygen; Nitrogen; Hydrogen
Which planet is closest to the sun? Mercury; Venus; Earth; Mars
In which country is Machu Picchu? Peru; Chile; Mexico; Bolivia
In which country is the Taj Mahal? India; Pakistan; Nepal; Iran
Which metal is liquid at room temperature? Mercury; Lead; Tin; Zinc"""
