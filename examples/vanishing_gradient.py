"""How fast gradients vanish on the way back through time: |dL/dh_t| of an RNN, a GRU and an LSTM, none of them trained.

Each is there with layer normalisation, too.

python examples/vanishing_gradient.py --plot docs/figures/vanishing_gradient.png     # needs matplotlib
"""

import argparse

import numpy as np

import fastrnn
from fastrnn import inspect, nn

T, B, I, H = 101, 16, 16, 64

parser = argparse.ArgumentParser()
parser.add_argument("--plot", help="where to draw the norms: .png, .svg or .pdf")
parser.add_argument("--quick", action="store_true", help="nothing else: it is quick")
options = parser.parse_args()

x = np.random.default_rng(0).standard_normal((T, B, I))
kinds = {"RNN": fastrnn.RNN, "GRU": fastrnn.GRU, "LSTM": fastrnn.LSTM, "LSTM, forget bias 2": fastrnn.LSTM}
layers = {
    name + behind: kind(I, H, layer_norm=norm, dtype=np.float64, rng=1)  # float32 would end at 1e-38
    for norm, behind in ((None, ""), ("separate", ", normalised"))
    for name, kind in kinds.items()
}
for name, layer in layers.items():
    if "forget" in name:
        nn.set_forget_bias(layer, 2.0)

# From the state after the first step on: the initial one is zeros, where normalisation is steepest.
norms = {name: inspect.gradient_norms(layer, x)["h"][1:] for name, layer in layers.items()}
print("geometric mean of the norms of dL/dh, steps before the end:")
for name, h in norms.items():
    means = (f"{back}: {np.exp(np.log(h[-1 - back]).mean()):.0e}" for back in (0, 10, 25, 50, 100))
    print(f"  {name:31} {'   '.join(means)}")
if options.plot:
    figure = inspect.plot_gradient_norms(norms)
    axes = figure.axes[0]
    for plain, normalised in zip(axes.lines, axes.lines[len(kinds) :], strict=False):
        normalised.set(color=plain.get_color(), linestyle="--")
    axes.legend(fontsize="small")
    figure.savefig(options.plot)
    print(f"drew {options.plot}")
