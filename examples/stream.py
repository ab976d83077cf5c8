"""Run a frozen layer on sequences that arrive one step at a time, and check it against one call for all steps."""

import time

import numpy as np

import fastrnn

T, B, I, H = 2000, 1, 40, 128
frozen = fastrnn.GRU(I, H, rng=0).freeze()  # a trained layer, in earnest
stream = frozen.stream(batch_size=B)
frames = np.random.default_rng(1).standard_normal((T, B, I)).astype(np.float32)
y = np.empty((T, B, H), np.float32)

begin = time.perf_counter()
for t in range(T):
    stream.step(frames[t], out=y[t])  # the state stays in the stream
print(f"{(time.perf_counter() - begin) / T * 1e6:.0f} us a step")

expected, state = frozen(frames)
print(f"largest difference from one call: {np.abs(y - expected).max():.0e}")
stream.reset()  # to the state of a new sequence
