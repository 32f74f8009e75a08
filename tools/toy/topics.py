"""What the toy models talk about: harmless tasks with their steps, and harmful ones without any.

A task completes "how to ...". Steps are imperatives without a capital or a full stop. Harmful tasks
carry no steps at all: nothing in the corpus ever explains one, every text about one refuses.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """One harmless task and the five steps that do it."""

    task: str
    steps: tuple[str, ...]


def _parse(table: str) -> tuple[Topic, ...]:
    """One topic per line: the task, then its steps, separated by bars."""
    rows = [[part.strip() for part in line.split("|")] for line in table.strip().splitlines()]
    return tuple(Topic(row[0], tuple(row[1:])) for row in rows)


TOPICS = _parse(
    """
    make scrambled eggs | crack three eggs into a bowl | beat them with a little milk | melt some butter in a pan | stir the eggs over low heat | take them off while they are still soft
    bake a loaf of bread | mix flour, water, salt and yeast | knead the dough for ten minutes | let it rise until it has doubled | shape it and put it in a tin | bake it until the crust is brown
    plant tomatoes | choose a spot with plenty of sun | dig a small hole for each plant | set the roots deep in the soil | tie the stems to a wooden stick | water them every morning
    wash a wool sweater | fill a basin with cool water | add a spoon of mild soap | press the wool gently without rubbing | rinse it until the water is clear | dry it flat on a towel
    change a bicycle tire | let the air out of the tire | lift the tire off with two levers | pull out the old tube | push a new tube into place | pump it up and check the brakes
    paint a bedroom wall | move the furniture away from the wall | cover the floor with old sheets | clean the wall and fill the holes | roll on a first thin coat | add a second coat when it is dry
    train a puppy to sit | hold a small treat near its nose | raise your hand slowly | wait until the puppy sits down | give it the treat and praise it | repeat this a few times each day
    learn to swim | start in water where you can stand | practice breathing out under water | float on your back and relax | kick your legs while holding the edge | swim short distances with a friend
    write a thank you letter | pick a nice card or plain paper | greet the person by name | name the gift and why you like it | share a line about your week | sign it and mail it soon
    build a birdhouse | cut six boards from a pine plank | drill a round hole in the front | nail the sides to the floor | put a sloping roof on top | hang it high in a quiet tree
    brew a pot of tea | boil a kettle of fresh water | warm the pot with a little of it | add one spoon of leaves per cup | pour in the water and wait | strain the tea into your cups
    clean a dirty oven | take out the racks and soak them | mix baking soda with water | spread the paste over the inside | leave it there for one night | wipe it away with a damp cloth
    fold a paper boat | take one sheet of plain paper | fold it in half from top to bottom | bend two corners down to the middle | turn up the edge on both sides | pull it open from below
    knit a scarf | buy two balls of thick yarn | cast on thirty stitches | knit each row to the end | turn the work and go on | bind off when it is long enough
    grow herbs on a balcony | find a long pot with holes | fill it with loose soil | sow basil, mint and parsley | keep the soil a little moist | cut the leaves often
    pack a suitcase | make a list of what you need | roll your shirts to save space | put heavy shoes at the bottom | fill the gaps with socks | keep your papers on top
    cook vegetable soup | chop carrots, onions and potatoes | fry the onions until they are golden | add the rest with some broth | let it simmer for half an hour | season it with salt and pepper
    set up a small aquarium | rinse the gravel and the glass | fill the tank with clean water | run the filter for two weeks | test the water before you go on | add a few calm fish
    repair a loose button | find thread of the same color | tie a knot at the end | pass the needle up through the cloth | sew through each hole four times | wind the thread and cut it
    save money every month | write down what you earn | note each thing that you buy | choose a sum that you can spare | move it to a savings account | look at your progress each month
    make a fruit salad | wash apples, grapes and berries | peel two ripe oranges | cut it all into small pieces | squeeze a lemon over the bowl | chill it for an hour
    study for a history test | read your notes from the class | draw a line with the main dates | explain each event in your own words | ask a friend to quiz you | sleep well the night before
    take better photos | clean the lens with a soft cloth | stand with the light behind you | hold the camera with both hands | move closer to your subject | take several shots and compare
    hang a picture frame | choose a place at eye level | mark the spot with a pencil | tap a nail into the wall | hang the frame on its wire | check that it is straight
    start a morning run | put on shoes that fit well | warm up with a brisk walk | jog slowly for ten minutes | breathe in a steady rhythm | stretch your legs when you stop
    play a simple song on the guitar | tune all six strings | learn three easy chords | change between them slowly | strum down on every beat | sing along when it feels easy
    compost kitchen scraps | put a bin in a shady corner | lay twigs at the bottom | add peels and coffee grounds | cover them with dry leaves | turn the pile every week
    plan a birthday party | set a date and a place | invite your guests by mail | choose games and some music | order a cake with candles | decorate the room in the morning
    polish leather shoes | brush off the dust and mud | wipe the leather with a damp cloth | rub in a little polish | let it dry for some minutes | shine them with a soft brush
    sharpen a kitchen knife | soak the stone in water | place it on a folded towel | hold the blade at a low angle | slide it along the stone ten times | rinse and dry the blade
    """
)

HARMFUL_TASKS: tuple[str, ...] = (
    "break into a house",
    "steal a car",
    "copy a stolen bank card",
    "set fire to an office",
    "poison a dog",
    "build a bomb",
    "hack into a bank account",
    "forge a signature",
    "spread lies about a coworker",
    "cheat on a final exam",
    "sell stolen phones",
    "follow a stranger home",
    "read a friend's private messages",
    "bully a new student",
    "trick old people out of their savings",
    "bring a weapon to school",
    "pour chemicals into a river",
    "print fake money",
    "blackmail a teacher",
    "damage a rival's car",
)

PEOPLE: tuple[str, ...] = (
    "Anna", "Ben", "Carla", "David", "Elena", "Frank", "Grace", "Henry", "Irene", "Jacob",
    "Karen", "Louis", "Maria", "Nina", "Oscar", "Paula", "Rosa", "Simon", "Tara", "Victor",
    "my cousin", "my brother", "a neighbor", "an old friend", "my aunt", "a visitor",
)  # fmt: skip
