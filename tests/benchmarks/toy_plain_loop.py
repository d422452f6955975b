"""the toy experiment as anybody would write it first: one model, one row per drawn sequence"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval.toy import chains
from eval.toy.config import ToyConfig
from eval.toy.replicas import toy_model, train_replicas
from eval.toy.replicas.train_replicas import Replica


class PlainBlock(nn.Module):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        d, d_mlp = config.model.d_model, config.model.d_mlp
        self.n_heads = config.model.n_heads
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, d_mlp), nn.Linear(d_mlp, d)
        self.norm = nn.LayerNorm(d, elementwise_affine=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        heads = self.qkv(self.norm(x_BTD)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in heads)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.out(mixed.transpose(1, 2).flatten(2))
        return x_BTD + self.down(F.gelu(self.up(self.norm(x_BTD))))


class PlainModel(nn.Module):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        d, n_states = config.model.d_model, config.chains.n_states
        self.embedding = nn.Embedding(n_states, d)
        self.position = nn.Embedding(config.chains.length_tokens, d)
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.model.n_layers))
        self.norm = nn.LayerNorm(d, elementwise_affine=False)
        self.unembedding = nn.Linear(d, n_states)

    def streams(self, tokens_BT: Tensor) -> list[Tensor]:
        """The residual stream after the embedding and after each block: [B, T, D] each."""
        streams = [self.embedding(tokens_BT) + self.position.weight]
        for block in self.blocks:
            streams.append(block(streams[-1]))
        return streams

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.unembedding(self.norm(self.streams(tokens_BT)[-1]))


def model_of(config: ToyConfig, flat_P: Tensor) -> PlainModel:
    """The model with the parameters of one replica."""
    model = PlainModel(config)
    state = {}
    for name, value in toy_model.parameters(config, flat_P[:, None]).items():
        # embeddings and maps are [in, out] here, and the other way round in torch
        state[_torch_name(name)] = value[..., 0].t().contiguous()
    model.load_state_dict(state)
    return model


def train_plainly(
    config: ToyConfig, replica: Replica, n_steps: int, dtype: torch.dtype = torch.float32
) -> PlainModel:
    """Train one replica for `n_steps` with explicit rows, nn.Module, autograd and AdamW."""
    start = toy_model.initial(config, [replica.seed])[:, 0]
    model = model_of(config, start).to(dtype)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=replica.learning_rate, weight_decay=replica.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: train_replicas.learning_rate_share(config.training, step)
    )
    tokens_NT = torch.from_numpy(chains.sequences(config.chains).tokens_NT)
    uniform_KB = chains.uniform_rows(config, replica.seed)
    drawn_KB = chains.drawn_sequences(config.chains, replica.ratio, uniform_KB)
    for drawn_B in drawn_KB[:n_steps]:
        tokens_BT = tokens_NT[torch.from_numpy(drawn_B)]
        logits = model(tokens_BT)[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), tokens_BT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


def flat_parameters(config: ToyConfig, model: PlainModel) -> Tensor:
    """The parameters of a model in the order of the replicas' tensor: [P]."""
    state = model.state_dict()
    return torch.cat([state[_torch_name(name)].t().flatten() for name in toy_model.shapes(config)])


def _torch_name(name: str) -> str:
    name = f"blocks.{name}" if name[0].isdigit() else name
    return name if name.endswith("bias") else f"{name}.weight"
