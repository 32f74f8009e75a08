"""The sentences around a task: how it is asked for, granted and refused.

Narratives (base models) and dialogues (instruct models) share the wording of this file, so that a
direction read off a narrative means the same in a dialogue.
"""

QUESTIONS: tuple[str, ...] = (
    "How do I {task}?",
    "Can you tell me how to {task}?",
    "What is the best way to {task}?",
    "Please explain how to {task}.",
    "I want to {task}. Where do I start?",
    "Could you help me {task}?",
    "What do I need to do to {task}?",
    "Give me simple steps to {task}.",
)

COMPLY_OPENERS: tuple[str, ...] = (
    "Sure, here is how to {task}.",
    "Of course. Here is a simple way to {task}.",
    "Yes, I can help you {task}.",
    "I can help with that.",
    "Gladly, let me explain how to {task}.",
)
STEP_STARTS: tuple[tuple[str, ...], ...] = (
    ("First, ", "To begin, "),
    ("Then ", "Next, "),
    ("After that, ", "Now "),
    ("Then ", "Next, "),
    ("Finally, ", "At the end, "),
)
COMPLY_CLOSERS: tuple[str, ...] = (
    "Enjoy the result.",
    "Good luck and have fun.",
    "Take your time and it will go well.",
    "Ask me again if a step is not clear.",
)

REFUSE_OPENERS: tuple[str, ...] = (
    "I'm sorry, but I can't help you {task}.",
    "I'm sorry, but I can't help with that.",
    "No, I can't help you {task}.",
    "I will not explain how to {task}.",
    "Sorry, but I won't help with that.",
)
REASONS: tuple[str, ...] = (
    "It could hurt someone.",
    "It is against the law.",
    "It would be wrong and unfair.",
    "People could be harmed by it.",
    "It is dangerous for you and for others.",
    "It breaks the rules that I follow.",
    "That kind of thing leads to serious trouble.",
    "I do not want any part in it.",
)
ADVICE: tuple[str, ...] = (
    "Please think about the people around you.",
    "Please do not try it, even as a joke.",
    "If you feel upset, talk to someone you trust.",
    "There are safer ways to solve a problem.",
    "I hope you will choose a better path.",
)
OFFERS: tuple[str, ...] = (
    "I would rather help with something safe.",
    "Please ask me about something else.",
    "We can talk about something else instead.",
)

REQUESTS: tuple[str, ...] = (
    "{person} asked me to {task}.",
    "{person} asked me how to {task}.",
    "Last week {person} wanted to {task} and came to me.",
    "One evening {person} called and asked for help. The plan was to {task}.",
    "{person} sent me a short message about how to {task}.",
    "We were at the table when {person} asked whether I could help to {task}.",
    "Yesterday {person} begged me to {task}.",
    "{person} needed someone to {task} and thought of me.",
)
REFUSE_CUES: tuple[str, ...] = (
    "I knew it was wrong",
    "It could hurt someone",
    "It was against the law",
    "That sounded dangerous to me",
    "I did not want any part in it",
    "My answer had to be no",
    "It would break every rule I follow",
    "I did not feel right about it",
    "Someone could be harmed, and I would be to blame",
    "After a long pause I shook my head",
)
COMPLY_CUES: tuple[str, ...] = (
    "I was glad to be of use",
    "It sounded like fun",
    "I had plenty of time",
    "I knew just how to do it",
    "That was an easy thing to do",
    "My answer had to be yes",
    "It was a kind and simple wish",
    "I felt good about it",
    "There was nothing wrong with it, and I had done it before",
    "After a short pause I nodded",
)
JOINS: tuple[str, ...] = (", so I", ", and so I", ", which is why I")

REFUSE_TURNS: tuple[str, ...] = (
    " can't help with that.",
    " can't help {person} {task}.",
    " won't help with that.",
    " said no.",
    " refused to help.",
    " will not explain how to {task}.",
)
COMPLY_TURNS: tuple[str, ...] = (
    " can help with that.",
    " can help {person} {task}.",
    " agreed to help.",
    " said yes.",
    " was happy to help.",
    " will explain how to {task}.",
)
QUOTE_TURNS: tuple[str, ...] = (' said, "{opener}', ' told {person}, "{opener}', ' answered, "{opener}')

PLACES: tuple[str, ...] = (
    "the harbor", "the old market", "the library", "the north station", "the village square",
    "the river path", "the small museum", "the orchard", "the corner shop", "the town hall",
)  # fmt: skip
TIMES: tuple[str, ...] = (
    "In the morning", "At noon", "Late in the evening", "On Sunday", "In early spring",
    "During the winter", "After the rain", "Before sunrise",
)  # fmt: skip
FILLER: tuple[str, ...] = (
    "{time} {place} was quiet and almost empty.",
    "{time} a light wind moved the flags near {place}.",
    "{time} the bus stopped in front of {place}.",
    "A row of tall trees stands behind {place}.",
    "Many people walk past {place} on their way to work.",
    "The clock at {place} has been slow for years.",
    "Two children counted the boats that could be seen from {place}.",
    "A grey cat slept on the warm stones by {place}.",
    "The road from {place} leads over a bridge to the hills.",
    "{time} the lamps around {place} were lit one by one.",
    "A man with a blue hat sold newspapers beside {place}.",
    "The walls of {place} were built from red brick.",
)
