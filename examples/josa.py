"""Korean particles: a bidirectional LSTM over bare words says which particle, or ending, each takes in its sentence.

python examples/josa.py --quick                                 # sentences of a small grammar: no download
python examples/josa.py --data DIR                              # DIR/josa_kaist: made from UD_Korean-Kaist
python examples/josa.py --data DIR --words "아이 공원 친구 놀다"   # a sentence of your own words

It learns from two kinds of sentences: those in which only the particles are missing, and lists of content words, where
an answer may also be an edit, such as 하다>한다. So it is a tagger, by which it is scored, and writes sentences, too.
The sound of a particle (이 or 가) is no question for a network: `with_particle` has the rule.
Beside it in the same run: the most frequent particle given stem and next word, or else only one of them.
"""

import gzip
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import click
import numpy as np

import fastrnn
from fastrnn import metrics, nn, optim
from fastrnn.data import Batches, Dataset, Vocabulary, encode_words
from fastrnn.train import Trainer

BAR = 0.95  # accuracy on the grammar
NONE, SKIPPED = "-", ""  # no particle; nothing to learn or to score
PEOPLE = ["백설공주", "왕자", "동물들", "난쟁이", "아이", "친구", "할머니", "선생님"]
PLACES, THINGS = ["숲속", "공원", "학교", "시장", "집", "산"], ["사과", "책", "노래", "꽃", "빵", "그림"]
VERBS = {  # the ending of each, and what its second person, thing and place take
    "이야기하다": ("하다>한다", "과/와", None, "에서"), "놀다": ("놀다>논다", "과/와", None, "에서"),
    "주다": ("주다>준다", "에게", "을/를", "에서"), "말하다": ("하다>한다", "에게", None, "에서"),
    "만나다": ("나다>난다", "을/를", None, "에서"), "가다": ("가다>간다", "과/와", None, "(으)로"),
    "찾다": ("다>는다", None, "을/를", "에서"), "있다": (NONE, "과/와", None, "에"),
}  # fmt: skip


def grammar_sentence(rng):
    """Bare words and their tags. The verb, at the end, decides what those before it take."""
    verb = str(rng.choice(list(VERBS)))
    ending, *taken = VERBS[verb]
    first, second = rng.choice(PEOPLE, 2, replace=False)
    others = list(zip((second, rng.choice(THINGS), rng.choice(PLACES)), taken, strict=True))
    others = [others[k] for k in rng.permutation(3) if others[k][1] and rng.random() < 0.8]
    words, tags = zip((first, "이/가"), *others, (verb, ending), strict=True)
    return [str(word) for word in words], list(tags)


def blocks(path):
    """The parts of a table that empty lines divide, each as its lines' columns."""
    for block in gzip.decompress(path.read_bytes()).decode().strip().split("\n\n"):
        yield [line.split("\t") for line in block.split("\n") if "\t" in line]


def read_tagged(path):
    """Sentences as stems and their particles' classes, SKIPPED where there is no slot."""
    return [([r[0] for r in rows], [r[2] if r[3] == "1" else SKIPPED for r in rows]) for rows in blocks(path)]


def edit(bare, written, classes):
    """What was done to a bare word: its particle's class or, as a>b, what was replaced at its end."""
    written = written.rstrip(".,?!")
    same = next(k for k in range(len(bare), -1, -1) if written.startswith(bare[:k]))
    replaced = f"{bare[same:]}>{written[same:]}"
    return NONE if replaced == ">" else classes.get(written[same:], replaced) if same == len(bare) else replaced


def with_particle(word, tag):
    """The word with its particle or ending, in the form that goes with the word's final consonant, or without one.

    이/가: 이 after a consonant. (으)로: 으 after one, but not after ㄹ. Parts of 에+은/는 go one after the other.
    """
    if ">" in tag:
        before, after = tag.split(">")
        return word.removesuffix(before) + after
    for part in tag.split("+") if tag != NONE else ():
        final = (ord(word[-1]) - ord("가")) % 28 if "가" <= word[-1] <= "힣" else 0  # Unicode's order; 0 is none
        if "/" in part:
            word += part.split("/")[0 if final else 1]
        else:
            optional, rest = re.fullmatch(r"(?:\((.)\))?(.*)", part).groups("")
            word += optional * (final not in ((0, 8) if optional == "으" else (0,))) + rest  # 8 is ㄹ
    return word


def slots(sentences):
    """Each slot's particle, and what it could be guessed from, the best first."""
    for words, tags in sentences:
        for word, after, tag in zip(words, [*words[1:], ""], tags, strict=True):
            if tag != SKIPPED:
                yield tag, [(word, after), ("next", after), ("stem", word), None]


def by_neighbours(train, test):
    """Slot accuracy of the most frequent particle given as much as has been seen."""
    counts = defaultdict(Counter)
    for tag, keys in slots(train):
        for key in keys:
            counts[key][tag] += 1
    best = {key: count.most_common(1)[0][0] for key, count in counts.items()}
    return np.mean([best[next(key for key in keys if key in best)] == tag for tag, keys in slots(test)])


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="the folder that holds josa_kaist/")
@click.option("--quick", is_flag=True, help="the grammar; exit status 1 if the bar is missed")
@click.option("--words", default="백설공주 동물들 숲속 이야기하다", show_default=True, help="to make a sentence of")
@click.option("--epochs", type=int, help="passes of training  [default: 5; grammar: 8]")
@click.option("--minutes", type=float, help="a budget of time instead")
@click.option("--seed", default=0, show_default=True)
@click.option("--hidden", default=128, show_default=True, help="H, in each direction")
@click.option("--dropout", default=0.3, show_default=True)
@click.option("--lr", default=3e-3, show_default=True)
@click.option("--save", type=click.Path(), help="a file for the model: .npz or .safetensors")
def main(data, quick, words, epochs, minutes, seed, hidden, dropout, lr, save):
    """Train, print the slot accuracy beside that of counts, and write a sentence."""
    rng, real = np.random.default_rng(seed), data is not None and not quick
    if real:
        folder = data / "josa_kaist"
        tagged, valid, test = (read_tagged(folder / f"tag_{part}.tsv.gz") for part in ("train", "dev", "test"))
        classes = {row[1]: row[2] for rows in blocks(folder / "tag_train.tsv.gz") for row in rows if row[3] == "1"}
        pairs = [(bare.split(), written.split()) for bare, written in next(blocks(folder / "gen_train.tsv.gz"))]
        pairs = [(b, [edit(*both, classes) for both in zip(b, w, strict=True)]) for b, w in pairs if len(b) == len(w)]
        word_size, character_size, characters_hidden, batch, epochs = 96, 32, 64, 64, epochs or 5
    else:
        tagged, valid, test = ([grammar_sentence(rng) for _ in range(n)] for n in (2000, 200, 500))
        pairs, word_size, character_size, characters_hidden, batch = [], 16, 16, 16, 32
        hidden, epochs = 32, epochs or 8
    train = tagged + pairs
    stems = Vocabulary.build((stems for stems, _ in train), min_count=3)
    characters = Vocabulary.build(stem for stems, _ in train for stem in stems)
    tags = Vocabulary.build(([tag for tag in tags if tag] for _, tags in train), min_count=5, specials=())

    def dataset(sentences):
        y = [[tags.id(tag) if tag in tags else -100 for tag in sentence_tags] for _, sentence_tags in sentences]
        return Dataset([encode_words(stems_, stems, characters) for stems_, _ in sentences], y)

    embedding = nn.WordEncoder(
        nn.Embedding(len(characters), character_size, scale=0.1, rng=rng),
        fastrnn.LSTM(character_size, characters_hidden, bidirectional=True, rng=rng),
        nn.Embedding(len(stems), word_size, scale=0.1, rng=rng),
        word_dropout=0.15,
    )
    rnn = fastrnn.LSTM(embedding.output_size, hidden, bidirectional=True, rng=rng)
    model = nn.ManyToMany(rnn, nn.Linear(2 * hidden, len(tags), rng=rng), embedding, dropout=dropout)
    model.vocabularies |= {"words": stems, "characters": characters, "tags": tags}

    def accuracy(model, sentences):
        answers = np.concatenate(model.predict(Batches(dataset(sentences), 64)))
        given = zip(answers, (tag for _, row in sentences for tag in row), strict=True)
        return np.mean([tags.tokens[answer] == tag for answer, tag in given if tag != SKIPPED])

    def write(words):
        """The sentence of these words, each with the likeliest tag that it can take."""
        logits, _ = model(encode_words(words, stems, characters)[:, None])
        fitting = []
        for word, row in zip(words, logits[:, 0], strict=True):
            ranked = (tags.tokens[k] for k in np.argsort(-row))
            fitting.append(next(tag for tag in ranked if ">" not in tag or word.endswith(tag.split(">")[0])))
        return " ".join(map(with_particle, words, fitting)) + "."

    Trainer(
        model,
        optim.AdamW(model.params, lr),
        Batches(dataset(train), batch),
        lambda model: accuracy(model, valid),
        maximize=True,
        schedule=optim.warmup_cosine(),
        evaluations=8 if minutes else None,
        seed=seed,
        unit="words",
        **({"seconds": 60 * minutes} if minutes else {"epochs": epochs}),
    ).fit()
    if save:
        model.save(save)

    score = accuracy(model, test)
    print(f"slot accuracy {score:.4f}, stem and next word {by_neighbours(tagged, test):.4f}")
    if real:
        bare, sentences = zip(*next(blocks(folder / "gen_test.tsv.gz")), strict=True)
        ours = metrics.chrf([write(words.split()) for words in bare], sentences)
        print(f"sentences of content words: chrF {ours:.1f}, the bare words {metrics.chrf(bare, sentences):.1f}")
    sentence = write(words.split())
    print(f"{words}: {sentence}")
    if quick and (score < BAR or sentence != "백설공주가 동물들과 숲속에서 이야기한다."):
        sys.exit(f"expected an accuracy of at least {BAR}, and that Snow White talks with the animals in the forest")


if __name__ == "__main__":
    main()
