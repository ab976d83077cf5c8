"""Models with recurrent layers: further layers, losses and the four patterns, all with their gradients.

    part        forward(x) -> y, tape; backward(tape, dy) -> Gradients      Embedding, Linear, WordEncoder, ...
    model       loss_and_grads(batch) -> Loss                               ManyToOne, ManyToMany, ...

`fastrnn.train` trains models, and `fastrnn.data` makes batches. docs/kit.md shows how to use them together.
"""

from fastrnn.nn.attention import Attention
from fastrnn.nn.chain import Chain, Masking, Recurrence
from fastrnn.nn.convolution import Convolution
from fastrnn.nn.decoder import Decoder
from fastrnn.nn.encoders import WordEncoder
from fastrnn.nn.ensembles import Ensemble, WriterEnsemble
from fastrnn.nn.generation import Steps, beam_search, consensus, draw, fill, sample
from fastrnn.nn.keras import from_keras
from fastrnn.nn.layers import Activation, Dropout, Embedding, FrozenEmbedding, FrozenLinear, Linear, Part, Sequential
from fastrnn.nn.losses import MeanSquaredError, SoftmaxCrossEntropy, log_softmax, softmax
from fastrnn.nn.model import Loss, Model, load
from fastrnn.nn.module import Module, load_parameters, parameters
from fastrnn.nn.patterns import EncoderDecoder, ManyToMany, ManyToOne, ModelStream, OneToMany
from fastrnn.nn.states import set_forget_bias, state_size
from fastrnn.params import HasParams

__all__ = [
    "Activation",
    "Attention",
    "Chain",
    "Convolution",
    "Decoder",
    "Dropout",
    "Embedding",
    "EncoderDecoder",
    "Ensemble",
    "FrozenEmbedding",
    "FrozenLinear",
    "HasParams",
    "Linear",
    "Loss",
    "ManyToMany",
    "ManyToOne",
    "Masking",
    "MeanSquaredError",
    "Model",
    "ModelStream",
    "Module",
    "OneToMany",
    "Part",
    "Recurrence",
    "Sequential",
    "SoftmaxCrossEntropy",
    "Steps",
    "WordEncoder",
    "WriterEnsemble",
    "beam_search",
    "consensus",
    "draw",
    "fill",
    "from_keras",
    "load",
    "load_parameters",
    "log_softmax",
    "parameters",
    "sample",
    "set_forget_bias",
    "softmax",
    "state_size",
]
