"""How a tokenizer writes the integers 0 to 100, and what they weigh where it takes several tokens for one.

With t_1 ... t_m the tokens of an integer, p the model's probabilities and N the tokens that continue a number,

    P(integer) = p(t_1) p(t_2 | t_1) ... p(t_m | t_1 ... t_m-1) stop
    stop       = 1 - sum over t in N of p(t | t_1 ... t_m) where another integer begins with t_1 ... t_m, else 1

so that 8 weighs what neither 80 nor 85 takes. Spellings of one integer, ` 85` and `85`, add up. A number that
goes on beyond 100 counts for 10 not at all, and for 11 to 99 as if it had ended: nothing is read after them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from massact.judges.reading import BLANKS

NEGLIGIBLE = 1e-5
"""What an answer begins with is not followed further below this probability; its integers are left out."""

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class IntegerTokens:
    """The integers 0 to 100 in the tokens of one tokenizer."""

    values: Mapping[Tokens, int]
    """Of each spelling its integer."""
    stems: tuple[Tokens, ...]
    """What spellings begin with and go on after, the shorter first; empty where each is a single token."""
    continuing: tuple[int, ...]
    """The tokens that continue a number."""

    @classmethod
    def of(cls, tokenizer: Any) -> "IntegerTokens":
        """Read off what the tokenizer makes of each integer, alone and after a blank."""
        values: dict[Tokens, int] = {}
        for value in range(101):
            for text in (str(value), f" {value}"):
                tokens = _without_blanks(tokenizer, text)
                # a tokenizer that knows no blank, or no digits, has something else for them
                if tokenizer.decode(list(tokens)).strip(BLANKS) == text.strip():
                    values[tokens] = value
        stems = {spelling[:n] for spelling in values for n in range(1, len(spelling))}
        continuing = {token for spelling in values for token in spelling[1:]}
        return cls(values, tuple(sorted(stems, key=lambda s: (len(s), s))), tuple(sorted(continuing)))

    @property
    def beginning(self) -> tuple[int, ...]:
        """The tokens that integers begin with."""
        return tuple(sorted({spelling[0] for spelling in self.values}))

    def weights(self, after: Mapping[Tokens, Mapping[int, float]]) -> dict[int, float]:
        """Probability by integer.

        Args:
            after: probability by token: of the `beginning` ones at the answer's first position (the key `()`),
                and of the `continuing` ones after each stem that was followed.
        """
        found: dict[int, float] = {}
        for spelling, value in self.values.items():
            weight = 1.0
            for n, token in enumerate(spelling):
                weight *= after[spelling[:n]][token] if spelling[:n] in after else 0.0
            if spelling in self.stems:
                weight *= max(0.0, 1.0 - sum(after[spelling].values())) if spelling in after else 0.0
            found[value] = found.get(value, 0.0) + weight
        return found


def _without_blanks(tokenizer: Any, text: str) -> Tokens:
    """The tokens of a text from the first on that is more than a blank."""
    tokens = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    written = tokenizer.convert_ids_to_tokens(list(tokens))
    n_blank = next((n for n, token in enumerate(written) if token.strip(BLANKS)), len(tokens))
    return tokens[n_blank:]
