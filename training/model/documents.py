"""where documents begin in a batch of tokens, so that attention and positions stay within each

A row is a window of a stream: it holds the end of one document, whole ones, and the beginning of
another. Every document ends with EOS, and no text contains it: special tokens in text are encoded
as text (data_prep/token_stream/tokenizer.py), so here EOS says where they end.

    tokens of a row     . . . E . . E . .        T = 9
    document            0 0 0 0 1 1 1 2 2        attends to its own, earlier positions
    position            0 1 2 3 0 1 2 0 1        restarts: rotary attention is relative, so this changes rounding alone, and a
                                                 document is computed as it would be alone

The token after EOS is still predicted from EOS, which sees the document before and nothing of the
next.

Shapes: B row, T position, S key position, N = B·T, K documents of all rows, and padding.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Documents(NamedTuple):
    """Documents of B rows, side by side on one line of N = B·T tokens. starts_K: where each begins,
    then N to the end; int32.
    """

    starts_K: Tensor
    n_rows: int
    length: int

    def ids(self) -> Tensor:
        """Which document each token belongs to, counted over all rows, [B, T]."""
        tokens_N = torch.arange(
            self.n_rows * self.length, dtype=torch.int32, device=self.starts_K.device
        )
        ids_N = torch.bucketize(tokens_N, self.starts_K, right=True) - 1
        return ids_N.view(self.n_rows, self.length)

    def positions(self) -> Tensor:
        """Each token's position in its document, [B, T]."""
        ids_BT = self.ids()
        tokens_BT = torch.arange(ids_BT.numel(), device=ids_BT.device).view_as(ids_BT)
        return tokens_BT - self.starts_K[ids_BT]

    def mask(self) -> Tensor:
        """Whether a token may attend to another of its row, [B, T, S]: in the same document, and
        not later.
        """
        ids_BT = self.ids()
        same_BTS = ids_BT[:, :, None] == ids_BT[:, None]
        return (
            same_BTS
            & torch.ones(self.length, self.length, dtype=torch.bool, device=ids_BT.device).tril()
        )


def starts(tokens_BT: Tensor, eos_id: int) -> Tensor:
    """Documents.starts_K of tokens in host memory; K is a power of two plus one, so that compiled
    code meets few of them.
    """
    begins_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
    begins_BT[:, 1:] = tokens_BT[:, :-1] == eos_id
    found = begins_BT.flatten().nonzero()[:, 0]
    n = 1 << (len(found) - 1).bit_length()
    return torch.nn.functional.pad(found, (0, n + 1 - len(found)), value=tokens_BT.numel()).int()
