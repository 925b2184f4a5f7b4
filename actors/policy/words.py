"""Why a machine is bought where it is, in words that a user reads. Pure; each is built once a decision."""

from actors.policy.board import Board, Candidate, Group
from actors.policy.layout import Layout, Purchase
from actors.policy.situation import Held
from providers.model import MICRO


def usd(micro_usd: float) -> str:
    """Dollars an hour, to the cent, or finer when they are less."""
    dollars = micro_usd / MICRO
    return f"${dollars:.2f}" if dollars >= 0.1 or dollars == 0 else f"${dollars:.4f}"


class Words:
    """Says of one decision why."""

    def __init__(self, board: Board, layout: Layout) -> None:
        self._board = board
        self._layout = layout
        self._spot = [one for one in layout.order if one.spot]
        self._cheapest = min((one.price for one in layout.order if one.spot), default=None)

    def market(self, one: Candidate) -> str:
        """What is said of a market that could be bought in."""
        losses = self._layout.hazards.get(one.name)
        risk = f", {losses:.2f} losses an hour expected" if losses is not None and one.spot else ""
        return f"{usd(one.price)} an hour{risk}"

    def choice(self, purchase: Purchase) -> str:
        """Why a node's machine is bought there."""
        one = purchase.candidate
        if not one.spot:
            return self._on_demand(purchase)
        count = len(self._spot)
        markets = "the only market that may be asked" if count == 1 else f"of {count} markets"
        if count == 1:
            best = markets
        elif one.price == self._cheapest:
            best = f"cheapest {markets}"
        else:
            best = f"best {markets} by price and risk"
        if not purchase.sure and self._was_closed(one):
            best = f"may be open again, {best}"
        dear = "" if self._board.on_demand is None else f"; on demand costs {usd(self._board.on_demand)}"
        return f"{best}: {self.market(one)}{dear}"

    def move(self, group: Group, one: Held, purchase: Purchase) -> str:
        """Why a machine is replaced by one elsewhere."""
        losses = self._layout.hazards.get(group.name)
        risk = f", {losses:.2f} losses an hour expected" if losses is not None else ""
        tasks = ""
        if one.busy:
            begun = "task" if one.busy == 1 else f"{one.busy} tasks"
            tasks = f"; its {begun} may end there first, what takes too long is begun again elsewhere"
        return f"better than {group.name} ({usd(group.price)} an hour{risk}): {self.choice(purchase)}{tasks}"

    def _on_demand(self, purchase: Purchase) -> str:
        price = f"{usd(purchase.candidate.price)} an hour on demand"
        if purchase.floor:
            return f"{price}: the pool wants so many"
        spec = self._board.situation.spec
        if spec.allocation == "on-demand":
            return f"{price}: the pool buys nothing else"
        if spec.buying.policy == "on-demand":
            return f"{price}: the policy buys nothing else"
        if not self._spot:
            return f"{price}: no spot market may be asked now"
        best = self._spot[0]
        return f"{price}: steadier than the best spot market, {best.name} ({self.market(best)})"

    def _was_closed(self, one: Candidate) -> bool:
        return one.memory is not None and one.memory.closed_since is not None
