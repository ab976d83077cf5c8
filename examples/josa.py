"""Korean particles: bidirectional LSTMs over bare words say which particle, or ending, each takes in its sentence.

python examples/josa.py --quick                                 # sentences of a small grammar: no download
python examples/josa.py --data DIR                              # DIR/josa_kaist: made from UD_Korean-Kaist
python examples/josa.py --data DIR --words "아이 공원 친구 놀다"   # a sentence of your own words

Taggers fill the slots of sentences in which only the particles are missing: the mean of several is scored. A generator
learns from lists of content words, too, where an answer may be an edit, such as 하다>한다. In training it is shown some
of a sentence's answers; so it writes a sentence the surest answer first, each given those before. The sound of a
particle (이 or 가) is no question for a network: `with_particle` has the rule.
Beside them in the same run: naive Bayes counts of a word and the next one, alone and multiplied with the network's.
"""

import re
import sys
from pathlib import Path

import click
import numpy as np

import fastrnn
from fastrnn import metrics, nn, optim
from fastrnn.data import Batches, Dataset, PartlyShown, Vocabulary, encode_words, read_blocks
from fastrnn.train import Trainer

BAR = 0.95  # accuracy on the grammar
COUNTS = 0.3  # how much the counts' logarithms weigh beside the network's
NONE, SKIPPED = "-", ""  # no particle; no slot
HIDDEN, NO_SLOT = "<hidden>", "<no slot>"  # what is read where no tag is shown
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


def edit(bare, written, classes):
    """What was done to a bare word: its particle's class or, as a>b, what was replaced at its end."""
    written = written.rstrip(".,?!")
    same = next(k for k in range(len(bare), -1, -1) if written.startswith(bare[:k]))
    replaced = f"{bare[same:]}>{written[same:]}"
    return NONE if replaced == ">" else classes.get(written[same:], replaced) if same == len(bare) else replaced


def read_josa(folder):
    """Sentences of stems and tags to train, validate and test with; content words and edits; and a test of these."""
    rows = [list(read_blocks(folder / f"tag_{part}.tsv.gz")) for part in ("train", "dev", "test")]
    tagged = [[([r[0] for r in s], [r[2] if r[3] == "1" else SKIPPED for r in s]) for s in part] for part in rows]
    classes = {surface: tag for s in rows[0] for _, surface, tag, slot in s if slot == "1"}
    pairs = [(bare.split(), written.split()) for bare, written in next(read_blocks(folder / "gen_train.tsv.gz"))]
    edits = [(b, [edit(*both, classes) for both in zip(b, w, strict=True)]) for b, w in pairs if len(b) == len(w)]
    return *tagged, edits, next(read_blocks(folder / "gen_test.tsv.gz"))


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
    """Each slot's tag and what is counted with it: the word, the next one, and both; see `metrics.Counts`."""
    for words, row in sentences:
        for word, after, tag in zip(words, [*words[1:], ""], row, strict=True):
            if tag != SKIPPED:
                yield tag, [(word[-1:], word), (after[-1:], after[-2:], after), ((word, after),)]


def ends(word):
    """A word's first and last letters: verbs have so many forms that most are rare."""
    return [f"{word[:k]}_" for k in (1, 2, 3)] + [f"_{word[-k:]}" for k in (1, 2, 3)]


def build_vocabularies(sentences, rare):
    """Of words with their ends and what can be shown of a tag, of characters, and of tags."""
    tags = Vocabulary.build(([tag for tag in row if tag] for _, row in sentences), min_count=5, specials=())
    specials = ("<pad>", "<unk>", HIDDEN, NO_SLOT, *(f"={tag}" for tag in tags.tokens))
    words = [word for words, _ in sentences for word in words]
    known = Vocabulary.build(([word, *ends(word)] for word in words), min_count=rare, specials=specials)
    return {"words": known, "characters": Vocabulary.build(words), "tags": tags}


def encode(words, row, vocabularies):
    """Ids of each word, of what is shown of its tag (at first nothing), its ends and its characters."""
    starts = [NO_SLOT if tag == SKIPPED else HIDDEN for tag in row]
    more = [[start, *ends(word)] for start, word in zip(starts, words, strict=True)]
    return encode_words(words, vocabularies["words"], vocabularies["characters"], more=more)


def dataset(sentences, vocabularies, learn=True):
    """What is read, and the tags' ids. A rare tag is not learned; in a test its id is one that no answer has."""
    tags = vocabularies["tags"].tokens
    ids, rare = {tag: k for k, tag in enumerate(tags)} | {SKIPPED: -100}, -100 if learn else len(tags)
    y = [[ids.get(tag, rare) for tag in row] for _, row in sentences]
    return Dataset([encode(*sentence, vocabularies) for sentence in sentences], y)


def shown(vocabularies):
    """The ids of tags where they are read."""
    return vocabularies["words"].encode(f"={tag}" for tag in vocabularies["tags"].tokens)


def write(model, words):
    """The sentence of these words, whose tags are filled in."""
    tags = model.vocabularies["tags"].tokens
    x, ids = encode(words, [None] * len(words), model.vocabularies), shown(model.vocabularies)
    fits = [[">" not in tag or word.endswith(tag.split(">")[0]) for tag in tags] for word in words]
    answers = nn.fill(model, x, ids, 1, fits)
    return " ".join(with_particle(word, tags[k]) for word, k in zip(words, answers, strict=True)) + "."


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="the folder that holds josa_kaist/")
@click.option("--quick", is_flag=True, help="the grammar; exit status 1 if the bar is missed")
@click.option("--words", default="백설공주 동물들 숲속 이야기하다", show_default=True, help="to make a sentence of")
@click.option("--taggers", type=int, help="whose mean fills the slots  [default: 2; grammar: 1]")
@click.option("--epochs", default=6, show_default=True, help="passes of training, for each model")
@click.option("--seed", default=0, show_default=True)
@click.option("--hidden", type=int, help="H, in each direction  [default: 256; grammar: 32]")
@click.option("--dropout", default=0.5, show_default=True)
@click.option("--weight-dropout", default=0.0, show_default=True, help="of the recurrent weights, as in AWD-LSTM")
@click.option("--embedding-dropout", default=0.0, show_default=True, help="of words' vectors, likewise")
@click.option("--locked", is_flag=True, help="dropout with one mask for all words of a sentence, likewise")
@click.option("--lr", default=3e-3, show_default=True)
@click.option("--save", type=click.Path(path_type=Path), help="a folder for tagger.npz and generator.npz")
def main(
    data, quick, words, taggers, epochs, seed, hidden, dropout, weight_dropout, embedding_dropout, locked, lr, save
):  # fmt: skip
    """Train, print the slot accuracy beside that of counts, and write a sentence."""
    if real := data is not None and not quick:
        tagged, valid, test, edits, to_write = read_josa(data / "josa_kaist")
        taggers, size, hidden, size_of_batch, rare = taggers or 2, 40, hidden or 256, 64, 3
    else:
        rng = np.random.default_rng(seed)
        tagged, valid, test = ([grammar_sentence(rng) for _ in range(n)] for n in (2000, 200, 500))
        edits, taggers, size, hidden, size_of_batch, rare = [], taggers or 1, 8, hidden or 32, 32, 1

    def accuracy(model, sentences):
        rows = dataset(sentences, model.vocabularies, learn=False)
        return metrics.accuracy(model.predict(Batches(rows, 64)), rows.y)

    def train(sentences, seed, valid=None, show=False):
        rng, found = np.random.default_rng(seed), build_vocabularies(sentences, rare)
        embedding = nn.WordEncoder(
            nn.Embedding(len(found["characters"]), size, scale=0.1, rng=rng),
            fastrnn.LSTM(size, size, bidirectional=True, rng=rng),
            nn.Embedding(len(found["words"]), size, scale=0.1, columns=8, embedding_dropout=embedding_dropout, rng=rng),
            word_dropout=0.2,
        )
        rnn = fastrnn.LSTM(
            embedding.output_size, hidden, bidirectional=True, weight_dropout=weight_dropout, rng=rng
        )  # fmt: skip
        output = nn.Linear(2 * hidden, len(found["tags"]), rng=rng)
        model = nn.ManyToMany(rnn, output, embedding, dropout=dropout, locked=locked)
        model.vocabularies |= found
        source = Batches(dataset(sentences, found), size_of_batch)
        Trainer(
            model,
            optim.AdamW(model.params, lr),
            PartlyShown(source, shown(found), column=1) if show else source,
            valid and (lambda model: accuracy(model, valid)),
            maximize=True,
            epochs=epochs,
            schedule=optim.warmup_cosine(),
            seed=seed,
            unit="words",
        ).fit()
        return model

    tagger = nn.Ensemble(*(train(tagged, seed + k, valid) for k in range(taggers)))
    tagger.vocabularies |= tagger.parts["0"].vocabularies
    generator = train(tagged + edits, seed, show=True)
    if save:
        save.mkdir(exist_ok=True)
        tagger.save(save / "tagger.npz")
        generator.save(save / "generator.npz")

    rows = dataset(test, tagger.vocabularies, learn=False)
    truth, by_network = rows.y.values, np.concatenate(tagger.predict(Batches(rows, 64), probabilities=True))
    truth, by_network = truth[truth != -100], by_network[truth != -100]
    counts = metrics.Counts(slots(tagged), tagger.vocabularies["tags"].tokens)
    by_counts = np.array([counts(chains) for _, chains in slots(test)])
    network, counted, score = (
        np.mean(p.argmax(axis=-1) == truth) for p in (by_network, by_counts, by_network * by_counts**COUNTS)
    )
    print(f"slot accuracy: network {network:.4f}, counts {counted:.4f}, both {score:.4f}")
    if real:
        bare, sentences = zip(*to_write, strict=True)
        ours = metrics.chrf([write(generator, words.split()) for words in bare], sentences)
        print(f"sentences of content words: chrF {ours:.1f}, the bare words {metrics.chrf(bare, sentences):.1f}")
    sentence = write(generator, words.split())
    print(f"{words}: {sentence}")
    if quick and (score < BAR or sentence != "백설공주가 동물들과 숲속에서 이야기한다."):
        sys.exit(f"expected an accuracy of at least {BAR}, and that Snow White talks with the animals in the forest")


if __name__ == "__main__":
    main()
