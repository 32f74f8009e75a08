"""Operators: what steering does to the residual stream h at a token, given the unit vector v and the coefficient c.

All stay in the plane of h and v. With the projection p = h.v and the length q = |h - p v| of the rest, an operator is a
function `(p, q, c) -> (scale, shift)`, and the stream becomes

    h' = scale h + shift v

so that rows of one batch may have different operators, vectors and coefficients. p and q are `[n, seq, 1]`, c is
`[n, 1, 1]`, all float32; scale and shift may have any shape that goes with p. Every row has its own c, whatever the
others have: an operator must not look across rows. Another package adds one by the entry point `massact.operators`;
its coefficient is a length along v (docs/extending.md).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from massact.errors import PluginError
from massact.models.cache import is_out_of_memory
from massact.plugins import call_outside, load_plugin

Pair = tuple[torch.Tensor, torch.Tensor]
Operator = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Pair]


def add(p: torch.Tensor, _q: torch.Tensor, c: torch.Tensor) -> Pair:
    """h' = h + c v: activation addition (Turner et al. 2023, arXiv:2308.10248; CAA, arXiv:2312.06681). c and -c undo
    each other; p' = p + c."""
    return torch.ones_like(p), c.expand_as(p)


def ablate(p: torch.Tensor, _q: torch.Tensor, c: torch.Tensor) -> Pair:
    """h' = h - c p v: directional ablation (Arditi et al. 2024, arXiv:2406.11717), where c = 1 removes the direction.
    p' = (1 - c) p: with c = 1 idempotent, and the norm never grows for c from 0 to 2; c = 2 mirrors."""
    return torch.ones_like(p), -c * p


def clamp(p: torch.Tensor, _q: torch.Tensor, c: torch.Tensor) -> Pair:
    """h' = h + (c - p) v: the projection is set to c, as features are clamped (Templeton et al. 2024). p' = c, so that
    it is idempotent; c = 0 is `ablate` with 1."""
    return torch.ones_like(p), c - p


def rotate(p: torch.Tensor, q: torch.Tensor, c: torch.Tensor) -> Pair:
    """h is turned by c degrees towards v in the plane of both: angular steering (Vu and Nguyen 2025, arXiv:2510.26243).
    p' = p cos c + q sin c and q' = q cos c - p sin c, so that |h'| = |h|, and -c undoes c while q' >= 0. A stream that
    is parallel to v spans no plane with it and stays as it is. There the plane is fixed by two directions."""
    angle = torch.deg2rad(c)
    cos, sin = angle.cos(), angle.sin()
    has_plane = q > 1e-6 * p.abs()
    scale = torch.where(has_plane, cos - p / q * sin, 1.0)
    return scale, torch.where(has_plane, p * cos + q * sin - p * scale, 0.0)


_OPERATORS: dict[str, Operator] = {"add": add, "ablate": ablate, "clamp": clamp, "rotate": rotate}


def find_operator(name: str) -> Operator:
    """The operator of a name, massact's or another package's. Raises PluginError: there is none, or it cannot be
    loaded."""
    return _OPERATORS.get(name) or _Outside(name, load_plugin("operators", name))


@dataclass(frozen=True, slots=True)
class _Outside:
    """Another package's operator. Raises PluginError with the line: it fails, or gives no pair."""

    name: str
    function: Operator

    def __call__(self, p: torch.Tensor, q: torch.Tensor, c: torch.Tensor) -> Pair:
        def made() -> Pair:
            scale, shift = self.function(p, q, c)
            return scale, shift

        try:
            return call_outside(f"the operator {self.name}", made, PluginError)
        except PluginError as error:
            if error.__cause__ and is_out_of_memory(error.__cause__):
                raise error.__cause__ from None  # fewer rows may do
            raise


# Coordinates of a subspace. `replace` sets those in k directions, the rows of an orthonormal basis V `[k, d_model]`, to
# what lies at c on the way from the negative side's mean activation m to the positive side's n:
#
#     h' = h - V^T V h + V^T V (m + c (n - m))
#
# so that c = 0 is the one and c = 1 the other; it is idempotent, and what is orthogonal to V stays. No function of
# one projection does that: the subspace is taken out, then a vector is added.


@dataclass(frozen=True, slots=True)
class Edit:
    """What is done to the rows of a batch at the output of one decoder block."""

    added: torch.Tensor
    """`[n, 1, d_model]`, float32: coefficient x vector of rows whose operator is `add`, or what `replace` puts there; 0
    of others."""
    operators: tuple[Operator, ...] = ()  # the other operators among the rows
    which: torch.Tensor | None = None
    """`[n, 1, 1]`: 1 + the index of each row's operator in `operators`, 0 of others; `None`: there are none."""
    vectors: torch.Tensor | None = None  # `[n, 1, d_model]`, float32: the unit vectors of rows with those operators
    coefficients: torch.Tensor | None = None  # `[n, 1, 1]`, float32
    basis: torch.Tensor | None = None
    """`[n, 1, k, d_model]`, float32: the directions of rows whose operator is `replace`, 0 of others and beyond a row's
    own; `None`: there are none."""

    def __call__(self, stream: torch.Tensor, shares: torch.Tensor | None = None) -> torch.Tensor:
        """The stream `[n, seq, d_model]` afterwards, reckoned in float32, in its own dtype. `shares`: `[n, seq]`, which
        tokens it is done at, or what share of the change each gets; `None`: all of it."""
        is_here = self.added.device == stream.device
        here = self if is_here else self.map(lambda tensor: tensor.to(stream.device))
        before = moved = stream.float()
        if here.which is not None and here.vectors is not None and here.coefficients is not None:
            moved = _operated(moved, here.vectors, here.coefficients, here.which, self.operators)
        if here.basis is not None:
            basis = here.basis.squeeze(1)
            moved = moved - moved @ basis.mT @ basis
        moved = moved + here.added
        if shares is not None:
            shares = shares.to(stream.device)[..., None]
            if shares.is_floating_point():
                moved = moved.where(shares == 1, before + shares * (moved - before))
            return moved.to(stream.dtype).where(shares != 0, stream)
        return moved.to(stream.dtype)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Edit":
        """The same with each tensor, by row, changed."""
        more = (self.which, self.vectors, self.coefficients, self.basis)
        which, vectors, coefficients, basis = (None if tensor is None else change(tensor) for tensor in more)
        return Edit(change(self.added), self.operators, which, vectors, coefficients, basis)

    def tensors(self) -> list[torch.Tensor]:
        """All that it holds by row."""
        every = (self.added, self.which, self.vectors, self.coefficients, self.basis)
        return [tensor for tensor in every if tensor is not None]


def _operated(
    h: torch.Tensor, v: torch.Tensor, c: torch.Tensor, which: torch.Tensor, operators: tuple[Operator, ...]
) -> torch.Tensor:
    p = (h * v).sum(-1, keepdim=True)
    # the others take twice the memory traffic without need
    q = (h - p * v).norm(dim=-1, keepdim=True) if {*operators} - {ablate, clamp} else p
    scale, shift = torch.ones_like(p), torch.zeros_like(p)
    for number, operator in enumerate(operators, 1):
        own_scale, own_shift = operator(p, q, c)
        scale = torch.where(which == number, own_scale, scale)
        shift = torch.where(which == number, own_shift, shift)
    # of rows that are added to: 1 h + 0 v, to the last bit
    return scale * h + shift * v
