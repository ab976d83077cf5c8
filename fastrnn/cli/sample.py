"""``fastrnn sample``: text from a saved character model, one step at a time through a stream."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from fastrnn import nn
from fastrnn.cli.errors import Failure
from fastrnn.cli.ranges import SEED, FiniteRange

__all__ = ["CHARACTERS", "print_sample", "sample", "sample_options"]

CHARACTERS = "characters"  # the vocabulary's name in the file

LENGTH = click.option(
    "--length", type=click.IntRange(0, sys.maxsize), default=500, show_default=True, help="Characters to write."
)
TEMPERATURE = click.option(
    "--temperature", type=FiniteRange(min=0), default=0.8, show_default=True,
    help="Below 1 is more careful; 0 always takes the likeliest character.",
)  # fmt: skip
PROMPT = click.option(
    "--prompt", default="\n", callback=lambda context, option, text: not_empty(text),
    help="Text to go on from. [default: a new line]",
)  # fmt: skip


Command = TypeVar("Command", bound=Callable[..., Any])


def sample_options(command: Command) -> Command:
    """Add the options of sampling to a command."""
    return PROMPT(LENGTH(TEMPERATURE(command)))


@click.command()
@click.argument("model", type=click.Path())
@sample_options
@click.option("--seed", type=SEED, default=None, help="Of the draws. [default: another each time]")
def sample(model: str, prompt: str, length: int, temperature: float, seed: int | None) -> None:
    """Write text with MODEL, a file from `fastrnn demo --out`."""
    try:
        loaded = nn.load(model)
    except OSError as error:
        raise Failure(f"{model}: {error.strerror or error}") from error
    except (ValueError, ImportError) as error:
        raise Failure(str(error)) from error
    if not is_character_model(loaded):
        raise Failure(f"{model}: not a character model")
    print_sample(loaded, prompt, length, temperature, seed)


def is_character_model(model: nn.Model) -> bool:
    """Whether this is a language model of characters, with its vocabulary."""
    vocabulary, size = model.vocabularies.get(CHARACTERS), getattr(getattr(model, "output", None), "output_size", None)
    if not isinstance(model, nn.ManyToMany) or not isinstance(model.embedding, nn.Embedding) or vocabulary is None:
        return False
    return size == model.embedding.num_embeddings == len(vocabulary) and vocabulary.unknown is not None


def print_sample(model: nn.ManyToMany, prompt: str, length: int, temperature: float, seed: int | None) -> None:
    """Print the prompt and `length` characters that follow it, each as it is drawn."""
    vocabulary = model.vocabularies[CHARACTERS]
    specials = range(len(vocabulary.specials))  # these ids stand for no text
    click.echo(printable(prompt.lstrip("\n")), nl=False)
    for k in itertools.islice(model.generate(vocabulary.encode(prompt), temperature, seed, specials), length):
        click.echo(printable(vocabulary.tokens[k]), nl=False)
    click.echo()


def not_empty(text: str) -> str:
    """Return the text; an empty one is an error."""
    if not text:
        raise click.BadParameter("expected at least one character.")
    return text


def printable(text: str) -> str:
    """Return the text without control characters, and only with characters that stdout can encode."""
    text = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)
