"""What the gates of an LSTM do, as heat maps: it reads letters, and at "?" has to name the one that came after "!".

python examples/gates.py --plot docs/figures/gates.png     # needs matplotlib; without --plot it prints a summary
"""

import argparse

import numpy as np

import fastrnn
from fastrnn import inspect, nn, optim
from fastrnn.data import Batch, Vocabulary
from fastrnn.train import Trainer

T, B, H = 24, 32, 24
LETTERS = "abcdefgh"
vocabulary = Vocabulary([*LETTERS, "!", "?"], specials=())


def batches(rng):
    """Sequences without end: a pass is 100 batches."""
    for _ in range(100):
        x = rng.integers(len(LETTERS), size=(T, B))
        marked = rng.integers(1, T // 2, B)  # the place of the letter to remember
        asked = rng.integers(marked + 1, T)
        rows = np.arange(B)
        y = np.full((T, B), -100)  # nothing to say
        y[asked, rows] = x[marked, rows]
        x[marked - 1, rows], x[asked, rows] = vocabulary.id("!"), vocabulary.id("?")
        yield Batch(x, y)


parser = argparse.ArgumentParser()
parser.add_argument("--plot", help="where to draw the gates: .png, .svg or .pdf")
parser.add_argument("--quick", action="store_true", help="less training")
options = parser.parse_args()

rng = np.random.default_rng(0)
lstm = fastrnn.LSTM(8, H, rng=rng)
nn.set_forget_bias(lstm)
output = nn.Linear(H, len(LETTERS), rng=rng)
model = nn.ManyToMany(lstm, output, nn.Embedding(len(vocabulary), 8, rng=rng))
steps = 300 if options.quick else 2000
held_out = list(batches(np.random.default_rng(1)))[:10]
Trainer(model, optim.Adam(model.params, 0.01), batches, held_out, steps=steps, schedule=optim.warmup_cosine()).fit()

text = "ab!cdefgbadhbcaf?ahdbcge"
_, _, tape = lstm.forward(model.embedding(vocabulary.encode(text)[:, None]))
seen = inspect.gates(tape)
outputs, _ = model(vocabulary.encode(text)[:, None])
print(f"{text}: says {LETTERS[outputs[text.index('?'), 0].argmax()]!r}")
# The units that hold the letter: those whose cells, at the question, are the fullest.
holding = np.argsort(-np.abs(seen["c"][text.index("?") - 1]))
for what, t in (("at the mark", 2), ("at the letter after it", 3), ("waiting", slice(4, 15)), ("at the question", 15)):
    kept, written, shown = (f"{seen[gate][t, ...][..., holding[:6]].mean():4.0%}" for gate in "fio")
    print(f"the six fullest cells {what}: kept {kept}, input open {written}, output open {shown}")
if options.plot:
    inspect.plot_gates(tape, text, units=holding).savefig(options.plot)
    print(f"drew {options.plot}")
