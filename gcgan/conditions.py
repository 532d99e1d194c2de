"""Labels of one or two data sets as one condition. StarGAN, arXiv 1711.09020, section 3.3 (mask vector).

One set: c = y. Two sets in turn: c = [labels of set 1 | labels of set 2 | one-hot of the set]; labels that the set of
the batch does not have are 0.
"""

from dataclasses import dataclass

from torch import Tensor

from data.labels import conditions
from engine import UserError


@dataclass(frozen=True)
class LabelBlock:
    """The labels of one data set: classes, of which a face has one; or attributes, independent of each other."""

    names: tuple[str, ...]
    attributes: bool
    first: int  # its first column among all labels
    source: int  # number of its data set, as in batch["source"]

    @property
    def columns(self) -> slice:
        """Its columns among all labels."""
        return slice(self.first, self.first + len(self.names))


class Labels:
    """The labels of a run. `num`: number K of all labels; `cond_dim`: numbers of a condition."""

    def __init__(self, meta: dict) -> None:
        """meta: of the data.

        Raises:
            UserError: a set has no labels, or both sets have the same kind of labels.
        """
        blocks: list[LabelBlock] = []
        for source, part in enumerate(meta.get("sets") or [meta]):
            names, first = names_of(part), blocks[-1].columns.stop if blocks else 0
            blocks.append(LabelBlock(tuple(names), not part["classes"], first, source))
        if len(blocks) == 2 and blocks[0].attributes == blocks[1].attributes:
            kind = "attributes" if blocks[0].attributes else "expressions"
            raise UserError(
                f"data.sets: both sets have {kind}; expected one with attributes and one with expressions, as "
                "[celeba, folder]. Merge two sets of one kind into one folder instead"
            )
        self.blocks = tuple(blocks)
        self.num = blocks[-1].columns.stop
        self.cond_dim = self.num + (len(blocks) if len(blocks) > 1 else 0)

    @property
    def names(self) -> list[str]:
        """Names of all labels, set by set."""
        return [name for block in self.blocks for name in block.names]

    def block_of(self, batch: dict[str, Tensor]) -> LabelBlock:
        """The labels of the set that a batch comes from."""
        return self.blocks[int(batch["source"][0])] if len(self.blocks) > 1 else self.blocks[0]

    def faces(self, batch: dict[str, Tensor], block: LabelBlock) -> tuple[Tensor, Tensor, Tensor]:
        """Images (N, C, H, H); the set's labels y (N, K_set): rows that sum to 1, or attributes in {-1, +1}; which rows
        are known (N,)."""
        return batch["image"], *conditions(batch, len(block.names), block.attributes)

    def condition(self, y: Tensor, block: LabelBlock) -> Tensor:
        """The condition c (N, cond_dim) of labels y (N, K_set) of one set, in the form that `faces` returns.

        Classes are kept; attributes in {-1, +1} become 0 and 1, as in the reference code. With two sets, `embed` adds
        zeros for the labels of the other set and the one-hot of the set.
        """
        return self.embed((y + 1) / 2 if block.attributes else y, block)

    def embed(self, y: Tensor, block: LabelBlock) -> Tensor:
        """c (N, cond_dim) of a set's labels y (N, K_set) in [0, 1]."""
        if len(self.blocks) == 1:
            return y
        c = y.new_zeros(len(y), self.cond_dim)
        c[:, block.columns] = y
        c[:, self.num + block.source] = 1
        return c


def target_condition(c: Tensor, k: int, block: LabelBlock) -> Tensor:
    """Conditions (N, cond_dim) that ask for label k of a set: the class k; or attribute k turned, the others kept.

    c: conditions of the same set.
    """
    c_target, column = c.clone(), block.first + k
    if block.attributes:
        c_target[:, column] = 1 - c[:, column]
    else:
        c_target[:, block.columns] = 0
        c_target[:, column] = 1
    return c_target


def names_of(meta: dict) -> list[str]:
    """The labels of a data set: classes if it has any, else attributes."""
    names = meta["classes"] or meta["attributes"]
    if len(names) < 1 + bool(meta["classes"]):
        raise UserError(f"data.dataset: {meta['dataset']} has no expressions and no attributes; choose another set")
    return list(names)
