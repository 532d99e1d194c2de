"""Reversible backpropagation: gradients equal autograd's, and memory does not grow with depth."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flow_toy import batch, labels_for, method, small_flow
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flow import reversible
from flow.bijectors import Coupling
from flow.model import GlowFlow


def gradients(flow: GlowFlow, v: Tensor, y: Tensor | None, bf16: bool = False) -> tuple[Tensor, list[Tensor]]:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        code = flow.encode(v, y)
        loss = -code.log_prob.mean() / flow.dim
        if flow.levels[-1].cfg.condition == "top":
            loss = loss + flow.class_head(code.z_top.mean((2, 3))).square().mean()
    return loss.detach(), torch.autograd.grad(loss, list(flow.parameters()))


def pair(dtype: torch.dtype, **model: object) -> tuple[GlowFlow, GlowFlow]:
    return small_flow(dtype=dtype, **model), small_flow(dtype=dtype, **model | {"memory": "reversible"})


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Relative norm of the difference of all gradients."""
    flat = [torch.cat([g.flatten() for g in grads]) for grads in (ours, theirs)]
    return ((flat[0] - flat[1]).norm() / flat[1].norm()).item()


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"num_planes": 0},
        {"coupling": "additive"},
        {"scale": "sigmoid2"},
        {"condition": "planes"},
        {"condition": "top"},
    ],
)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_reversible_gradients_equal_stored_gradients(dtype: torch.dtype, bound: float, model: dict) -> None:
    stored, ours = pair(dtype, num_steps=3, **model)
    v = (torch.rand(4, 3, 8, 8) - 0.5).to(dtype)
    y = labels_for(stored, 4)
    (loss, plain), (same, walked) = gradients(stored, v, y), gradients(ours, v, y)
    assert abs(loss - same) < 1e-6
    for name, a, b in zip(dict(stored.named_parameters()), walked, plain, strict=True):
        assert (a - b).norm() <= bound * b.norm().clamp_min(1e-6), name


def test_reversible_gradients_after_training() -> None:
    stored, ours = pair(torch.float32, condition="planes", num_steps=3)
    v, y = torch.rand(8, 3, 8, 8) * 0.3 - 0.2, labels_for(stored, 8)
    optimizer = torch.optim.Adamax(stored.parameters(), 2e-3)
    for _ in range(50):
        optimizer.zero_grad()
        (-stored.encode(v + 0.03 * torch.rand_like(v), y).log_prob.mean() / stored.dim).backward()
        optimizer.step()
    ours.load_state_dict(stored.state_dict())
    assert difference(gradients(ours, v, y)[1], gradients(stored, v, y)[1]) < 1e-4


def test_backward_needs_the_forward_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, ours = pair(torch.float32, num_steps=4, width=16, noise=0.02)
    v = torch.rand(8, 3, 8, 8) - 0.5
    plain = gradients(stored, v, None, bf16=True)[1]
    walked = difference(gradients(ours, v, None, bf16=True)[1], plain)
    monkeypatch.setattr(reversible, "_restored", lambda state: torch.autocast(state[0], enabled=False))
    forgotten = difference(gradients(ours, v, None, bf16=True)[1], plain)
    assert walked < 1e-4 and forgotten > 5 * walked


def saved_bytes(flow: GlowFlow, v: Tensor, backward: bool = False) -> int:
    """Bytes that autograd saves between forward and backward; each storage once, without parameters."""
    held: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in flow.parameters()}

    def pack(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in parameters:
            held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        log_prob = flow.encode(v).log_prob  # noqa: F841  (keeps the graph, hence the storages, alive)
    return sum(held.values())


def test_memory_does_not_grow_with_depth() -> None:
    v = torch.rand(4, 3, 16, 16) - 0.5
    sizes = {
        (memory, anchors, steps): saved_bytes(
            small_flow(size=16, dtype=torch.float32, num_steps=steps, memory=memory, anchor_every=anchors), v
        )
        for memory, anchors, steps in [
            ("reversible", 0, 4), ("reversible", 0, 16), ("reversible", 4, 16), ("stored", 0, 4), ("stored", 0, 16)
        ]
    }  # fmt: skip
    assert sizes["reversible", 0, 16] <= 1.02 * sizes["reversible", 0, 4]
    assert sizes["stored", 0, 16] >= 3 * sizes["stored", 0, 4]
    assert sizes["reversible", 0, 16] < sizes["reversible", 4, 16] < sizes["stored", 0, 16]


def test_anchors_do_not_change_gradients() -> None:
    stored = small_flow(num_steps=6)
    anchored = small_flow(num_steps=6, memory="reversible", anchor_every=4)
    v = torch.rand(4, 3, 8, 8, dtype=torch.float64) - 0.5
    assert difference(gradients(anchored, v, None)[1], gradients(stored, v, None)[1]) < 1e-10


def counted(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> int:
    calls, real = [0], Coupling.shift_scale

    def count(self: Coupling, *args: Tensor) -> tuple[Tensor, Tensor | None]:
        calls[0] += 1
        return real(self, *args)

    monkeypatch.setattr(Coupling, "shift_scale", count)
    run()
    return calls[0]


def test_each_network_is_evaluated_twice_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = small_flow(num_steps=5, memory="reversible")
    v = torch.rand(2, 3, 8, 8, dtype=torch.float64) - 0.5
    assert counted(monkeypatch, lambda: gradients(flow, v, None)) == 2 * 2 * 5  # levels, steps, twice


class CountOperators(TorchDispatchMode):
    """Counts the operators that run inside."""

    calls = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.calls += 1
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize(("memory", "limit"), [("stored", 150), ("reversible", 185)])
def test_operators_of_one_more_step_of_flow(memory: str, limit: int) -> None:
    """Forward and backward. Weights are composed for all steps at once, so a further step adds few operators."""
    calls = []
    for num_steps in (2, 8):
        flow, v = small_flow(num_levels=1, num_steps=num_steps, memory=memory), torch.rand(2, 3, 8, 8).double() - 0.5
        with CountOperators() as counted_operators:
            flow.encode(v).log_prob.mean().backward()
        calls.append(counted_operators.calls)
    assert (calls[1] - calls[0]) / 6 <= limit


@pytest.mark.parametrize("optimizer", ["adam", "adamax"])
def test_training_steps_agree_for_every_optimizer(optimizer: str) -> None:
    """The cached inverse follows the weights, also if they change without an optimizer step."""
    nets = [
        method(train={"optimizer": optimizer, "lr": 5e-3, "alarm_every": 2}, memory=memory)
        for memory in ("stored", "reversible")
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    for step in range(6):
        grads = []
        for net in nets:
            torch.manual_seed(step)
            if step == 0:
                net.warm_start(batch(8))
            net.step(batch(8, seed=step), step)
            grads.append([p.grad for p in net.flow.parameters()])
        assert difference(*grads[::-1]) < 1e-4, step


@pytest.mark.parametrize(
    "frozen",
    [["actnorm"], ["conv"], ["actnorm", "conv"], ["coupling"], ["actnorm.g", "conv.log_s"], ["planes", "prior"]],
)
def test_frozen_parameters_get_no_gradient(frozen: list[str]) -> None:
    stored, ours = pair(torch.float64, num_steps=3, condition="planes")
    v, y = torch.rand(4, 3, 8, 8, dtype=torch.float64) - 0.5, labels_for(stored, 4)
    for flow in (stored, ours):
        for name, p in flow.named_parameters():
            p.requires_grad_(not any(word in name for word in frozen))
        flow.encode(v, y).log_prob.mean().backward()
    for (name, a), b in zip(ours.named_parameters(), stored.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None) == (not a.requires_grad), name
        assert a.grad is None or torch.allclose(a.grad, b.grad, atol=1e-10), name


@pytest.mark.slow
@pytest.mark.parametrize(("memory", "bf16"), [("stored", False), ("reversible", True)])
def test_compiled_steps_give_the_same_gradients(memory: str, bf16: bool) -> None:
    """Traced without a graph break and run eagerly, so no C++ compiler is needed."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, compiled = (
        small_flow(dtype=torch.float32, condition="planes", num_steps=6, memory=memory) for _ in range(2)
    )
    compiled.compile(backend="aot_eager")
    v, y = torch.rand(4, 3, 8, 8) - 0.5, labels_for(plain, 4)
    (loss, ours), (same, theirs) = gradients(compiled, v, y, bf16), gradients(plain, v, y, bf16)
    assert abs(loss - same) < 1e-5
    assert difference(ours, theirs) < (1e-3 if bf16 else 1e-5)
    # Three parts a step; steps of one shape share what is compiled, with and without gradients.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3 * 2 * 3
    with torch.no_grad():
        assert torch.allclose(compiled.decode(compiled.encode(v, y).eps, y), v, atol=1e-5)
