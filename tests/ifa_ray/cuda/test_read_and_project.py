import dataclasses

import pytest
import torch

from ifa_ray.cuda.reads import Reading, naive_read_and_project, read_and_project

BLOCKS = {"printed": (False, False), "set": (False, True), "products": (True, False),
          "all": (True, True)}  # fmt: skip


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclasses.dataclass
class Case:
    """Leaves by name, from which both forms are called with the same arguments."""

    leaves: dict
    size_BC: tuple
    rows_BC: object
    phi: str
    count_B: torch.Tensor

    def call(self, form):
        x = self.leaves
        history = Reading(q_RF=x["q"], sums_BFX=x["sums"], count_B=self.count_B, phi=self.phi)
        second = None
        if "q2" in x:
            second = Reading(q_RF=x["q2"], sums_BFX=x["sums2"], count_B=self.count_B, phi=self.phi)
        return form(
            history, x["weight"], size_BC=self.size_BC, rows_BC=self.rows_BC,
            items_RD=x.get("items"), candidates=second, bias_BH=x.get("bias"),
        )  # fmt: skip

    def anew(self):
        leaves = {name: x.detach().clone().requires_grad_() for name, x in self.leaves.items()}
        return dataclasses.replace(self, leaves=leaves)


def make(B, C, F, D, H, device, *, blocks="all", phi="softplus", gathered=True, bias=True,
         dtype=torch.float32):  # fmt: skip
    has_items, has_second = BLOCKS[blocks]
    R = 40 if gathered else B * C
    generator = torch.Generator().manual_seed(9)
    rows_BC = torch.randint(0, R, (B, C), generator=generator).to(device) if gathered else None

    def sums(seed):
        # A mass is a sum of phi(k), so > 0.
        parts = [draw(B, F, D, seed=seed), draw(B, F, 1, seed=seed + 1).abs() + 0.5]
        return 30 * torch.cat(parts, dim=2).to(device)

    def queries(seed):
        drawn = draw(R, F, seed=seed)
        return (drawn.abs() if phi == "none" else drawn).to(device, dtype)

    X = D * (1 + 2 * has_items + has_second)
    # As a first layer keeps it: [H, X], read the other way round.
    leaves = {"q": queries(1), "sums": sums(2), "weight": draw(H, X, seed=4).to(device, dtype).T}
    if has_items:
        leaves["items"] = draw(R, D, seed=5).to(device, dtype)
    if has_second:
        leaves |= {"q2": queries(6), "sums2": sums(7)}
    if bias:
        leaves["bias"] = draw(B, H, seed=8).to(device)
    count_B = torch.linspace(20, 40, B, device=device)
    return Case(leaves=leaves, size_BC=(B, C), rows_BC=rows_BC, phi=phi, count_B=count_B)


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("C", [0, 1, 17, 1000])
def test_both_forms_give_the_same_first_layer(C, blocks, device):
    case = make(2, C, 8, 8, 24, device, blocks=blocks)
    fast, naive = case.call(read_and_project), case.call(naive_read_and_project)
    assert fast.shape == (2, C, 24)
    torch.testing.assert_close(fast, naive, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("phi", ["softplus", "relu", "none"])
@pytest.mark.parametrize("widths", [(1, 1, 1), (13, 9, 70), (16, 16, 64), (64, 64, 130)])
def test_any_widths_will_do(widths, phi, device):
    case = make(1, 45, *widths, device, phi=phi, bias=False)
    fast, naive = case.call(read_and_project), case.call(naive_read_and_project)
    torch.testing.assert_close(fast, naive, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_products_are_rounded_and_sums_are_not(device):
    case = make(2, 100, 16, 16, 64, device, dtype=torch.bfloat16)
    fast, naive = case.call(read_and_project), case.call(naive_read_and_project)
    assert fast.dtype == torch.float32
    scale = naive.std()
    torch.testing.assert_close(fast / scale, naive / scale, rtol=0.02, atol=0.02)


def test_an_empty_history_is_read_as_zero(device):
    case = make(2, 17, 8, 8, 24, device, blocks="printed")
    case.leaves["sums"][1] = 0
    case.count_B[1] = 0
    hidden_BCH = case.call(read_and_project)
    torch.testing.assert_close(hidden_BCH[1], case.leaves["bias"][1].expand(17, -1))
    assert (hidden_BCH[0] != hidden_BCH[0, :1]).any()


def test_a_candidate_gets_the_same_alone_and_in_any_set(device):
    case = make(1, 70, 8, 8, 24, device)
    together = case.call(read_and_project)
    alone = dataclasses.replace(case, size_BC=(1, 1), rows_BC=case.rows_BC[:, 41:42])
    # Not to the bit: the interpreter's products are numpy's, whose last bit may depend on shapes.
    found = alone.call(read_and_project)[0, 0]
    torch.testing.assert_close(found, together[0, 41], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("gathered", [True, False])
@pytest.mark.parametrize("C", [0, 1, 45])
def test_both_forms_give_the_same_gradients(C, gathered, blocks, device):
    case = make(2, C, 13, 9, 24, device, blocks=blocks, gathered=gathered)
    weight = draw(2, C, 24, seed=11).to(device)
    gradients = []
    for form in (read_and_project, naive_read_and_project):
        mine = case.anew()
        (mine.call(form) * weight).sum().backward()
        gradients.append({name: leaf.grad for name, leaf in mine.leaves.items()})
    for name, fast in gradients[0].items():
        torch.testing.assert_close(
            fast, gradients[1][name], rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("phi", ["relu", "none"])
def test_gradients_agree_for_the_other_feature_maps(phi, device):
    case = make(1, 20, 8, 8, 16, device, phi=phi)
    gradients = []
    for form in (read_and_project, naive_read_and_project):
        mine = case.anew()
        mine.call(form).square().sum().backward()
        gradients.append(mine.leaves["q"].grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-2)
