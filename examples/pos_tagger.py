"""Parts of speech: a bidirectional LSTM over words, which another one reads character by character, tags each word.

python examples/pos_tagger.py --quick                    # sentences of a small grammar: no download
python examples/pos_tagger.py --data DIR                 # DIR/ud_english_ewt: Universal Dependencies
python examples/pos_tagger.py --data DIR --treebank ud_korean_kaist

Beside it in the same run: each word's most frequent tag, an unknown word's by its last letters.
"""

import sys
from collections import Counter, defaultdict
from pathlib import Path

import click
import numpy as np

import fastrnn
from fastrnn import inspect, metrics, nn, optim
from fastrnn.data import Batches, Dataset, Vocabulary, encode_words, read_blocks
from fastrnn.train import Trainer

BATCH = 32
BAR = 0.97  # UPOS accuracy on the grammar
# Where a word alone does not tell the part of speech:
BOTH = ["work", "walk", "play", "call", "plan", "visit", "fish", "book"]  # VERB or NOUN
COMPANIES = ["google", "skype", "zoom", "xerox"]  # VERB or PROPN
# Where its letters do, as each such word is a new one:
SUFFIXES = {"NOUN": ["ness", "tion", "ment"], "VERB": ["ize", "ify"], "ADJ": ["ous", "ful"], "ADV": ["ly"]}


def grammar_sentence(rng):
    """Words and tags, such as: they work at google unghously."""

    def word(tag):
        if tag in SUFFIXES and (tag in ("ADJ", "ADV") or rng.random() < 0.3):
            return "".join(rng.choice(list("abdeghiklmnoprstu"), 5)) + rng.choice(SUFFIXES[tag])
        if tag == "VERB":
            return rng.choice(BOTH + COMPANIES)
        known = {"NOUN": BOTH, "PROPN": COMPANIES, "PRON": ["I", "you", "we", "they"], "DET": ["the", "a", "my"]}
        return rng.choice((known | {"ADP": ["at", "for", "with"]})[tag])

    phrases = (["NOUN"], ["PROPN"], ["DET", "NOUN"], ["DET", "ADJ", "NOUN"])

    def phrase():
        return phrases[rng.integers(len(phrases))]

    tags = ["PRON"] if rng.random() < 0.5 else list(phrase())
    tags += ["VERB"] + (phrase() if rng.random() < 0.4 else [])
    tags += ["ADP", *phrase()] if rng.random() < 0.7 else []
    tags += ["ADV"] if rng.random() < 0.3 else []
    return [str(word(tag)) for tag in tags], tags


def read_treebank(path):
    """Sentences as words and tags: a word a line, an empty line after each sentence."""
    return [([row[0] for row in rows], [row[1] for row in rows]) for rows in read_blocks(path)]


def most_frequent(train, test):
    """Accuracy of each word's most frequent tag; of an unknown one's, by as many of its last letters as are known."""
    counts = defaultdict(Counter)

    def keys(word):
        return [("word", word), *(word[-k:] for k in (4, 3, 2, 1)), "other"]

    for words, tags in train:
        for word, tag in zip(words, tags, strict=True):
            for key in keys(word):
                counts[key][tag] += 1
    guesses = [counts[next(key for key in keys(w) if key in counts)].most_common(1)[0][0] for ws, _ in test for w in ws]
    return np.mean(
        [guess == tag for guess, tag in zip(guesses, (tag for _, tags in test for tag in tags), strict=True)]
    )


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="the folder that holds the treebank")
@click.option("--treebank", default="ud_english_ewt", show_default=True, help="or ud_korean_kaist")
@click.option("--quick", is_flag=True, help="the grammar; exit status 1 if the bar is missed")
@click.option("--epochs", type=int, help="passes of training  [default: 12; grammar: 8]")
@click.option("--minutes", type=float, help="a budget of time instead")
@click.option("--seed", default=0, show_default=True)
@click.option("--hidden", default=128, show_default=True, help="H, in each direction")
@click.option("--dropout", default=0.4, show_default=True)
@click.option("--lr", default=3e-3, show_default=True)
@click.option("--precisions", is_flag=True, help="also compare float32, bfloat16 and int8")
@click.option("--save", type=click.Path(), help="a file for the model: .npz or .safetensors")
def main(data, treebank, quick, epochs, minutes, seed, hidden, dropout, lr, precisions, save):
    """Train, and print the accuracy beside that of the most frequent tags."""
    rng = np.random.default_rng(seed)
    if data and not quick:
        train, valid, test = (read_treebank(data / treebank / f"{p}.tsv.gz") for p in ("train", "dev", "test"))
        word_size, character_size, characters_hidden, epochs = 96, 32, 64, epochs or 12
    else:
        train, valid, test = ([grammar_sentence(rng) for _ in range(n)] for n in (2000, 200, 500))
        word_size, character_size, characters_hidden, hidden, epochs = 16, 16, 16, 32, epochs or 8
    words = Vocabulary.build((words for words, _ in train), min_count=2)
    characters = Vocabulary.build(word for words, _ in train for word in words)
    tags = Vocabulary.build((tags for _, tags in train), specials=())

    def dataset(sentences):
        return Dataset(
            [encode_words(w, words, characters) for w, _ in sentences], [tags.encode(t) for _, t in sentences]
        )

    embedding = nn.WordEncoder(
        nn.Embedding(len(characters), character_size, scale=0.1, rng=rng),
        fastrnn.LSTM(character_size, characters_hidden, bidirectional=True, rng=rng),
        nn.Embedding(len(words), word_size, scale=0.1, rng=rng),
        word_dropout=0.15,
    )
    rnn = fastrnn.LSTM(embedding.output_size, hidden, bidirectional=True, rng=rng)
    output = nn.Linear(2 * hidden, len(tags), rng=rng)
    model = nn.ManyToMany(rnn, output, embedding, dropout=dropout)
    model.vocabularies |= {"words": words, "characters": characters, "tags": tags}

    def accuracy(model, sentences):
        rows = dataset(sentences)
        return metrics.accuracy(model.predict(Batches(rows, 64)), rows.y)

    trainer = Trainer(
        model,
        optim.AdamW(model.params, lr),
        Batches(dataset(train), BATCH),
        lambda model: accuracy(model, valid),
        maximize=True,
        schedule=optim.warmup_cosine(),
        evaluations=8 if minutes else None,
        seed=seed,
        unit="words",
        **({"seconds": 60 * minutes} if minutes else {"epochs": epochs}),
    )
    trainer.fit()
    if save:
        model.save(save)

    score, baseline = accuracy(model, test), most_frequent(train, test)
    print(f"UPOS accuracy {score:.4f}, most frequent tag {baseline:.4f}, on {sum(len(w) for w, _ in test):,} words")
    if precisions:
        print(inspect.precision(model, Batches(dataset(test), 64), lambda model: accuracy(model, test)))
    if "korean" in treebank:
        return
    tagged = []
    for text in ("I google at work", "I work at google"):
        x = encode_words(text.split(), words, characters)[:, None]
        tagged.append(dict(zip(text.split(), tags.decode(model(x)[0][:, 0].argmax(axis=-1)), strict=True)))
        print("  ".join(f"{word}/{tag}" for word, tag in tagged[-1].items()))
    if quick and (score < BAR or any(tagged[0][word] == tagged[1][word] for word in ("google", "work"))):
        sys.exit(f"expected an accuracy of at least {BAR}, and tags that depend on the sentence")


if __name__ == "__main__":
    main()
