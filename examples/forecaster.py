"""Forecast time series several steps ahead: a linear model and an LSTM read the past and say all of the future at once.

python examples/forecaster.py                # on generated weather and a generated stock index
python examples/forecaster.py --data DIR     # DIR/time_series: weather and air of Beijing, hourly; DIR/sp500_monthly
python examples/forecaster.py --quick --plot docs/figures/forecast.png     # needs matplotlib

A series is cut in time, never at random: models learn from the first years and are tested on the last. With --choose
they are tested on the years before those, to choose sizes and rates by. The baselines for weather are persistence (it
stays as it is now) and seasonal persistence (as it was at the same hour of the day before); for a stock index the
random walk, without and with drift, which is rarely beaten. The linear model says by how much the future differs from
persistence, and the LSTM, in the mean of a few models, what is left of that (as in LSTNet, arXiv:1703.07015).
"""

import csv
import gzip
import sys
import time
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from sklearn.linear_model import Ridge

import fastrnn
from fastrnn import metrics, nn, optim
from fastrnn.data import Batches, Dataset, Ragged
from fastrnn.train import Trainer

LAGS = (0, 1, 2, 3, 6, 9, 12, 18, 23, 24, 36, 48, 71)  # what the linear model sees of the past


class Series(NamedTuple):
    """What is known at each of n times."""

    inputs: np.ndarray  # (n, F), without gaps
    targets: np.ndarray  # (n, K), NaN where nobody measured
    names: tuple  # of the targets
    season: int  # steps after which seasonal persistence expects the same; 1 for a random walk
    cuts: tuple  # when the years to choose by begin, and when the test


def calendar(n, day=24, year=8766):
    """The hour and the season as points on circles."""
    turns = 2 * np.pi * np.arange(n)[:, None] / (day, year)
    return np.concatenate([np.sin(turns), np.cos(turns)], axis=1)


def filled(column):
    """The last value known, at each time."""
    known = np.where(np.isnan(column), 0, np.arange(len(column)))
    return np.where(np.isnan(column), np.nanmean(column), column)[np.maximum.accumulate(known)]


def generate(rng, n):
    """Return temperatures, of days, years, and fronts that the pressure foretells; and a random walk."""
    front = np.convolve(rng.normal(size=n + 200), np.hanning(48), "same")
    pressure = front[124 : 124 + n] + rng.normal(scale=0.3, size=n)  # a day ahead
    days = calendar(n)
    temperature = 12 - 4 * days[:, 2] - 14 * days[:, 3] + 1.2 * front[100 : 100 + n] + rng.normal(scale=0.5, size=n)
    inputs, steps = np.column_stack([temperature, pressure, days]), rng.normal(0.005, 0.04, (1600, 1))
    weather = Series(inputs, temperature[:, None], ("temperature",), 24, (n * 6 // 10, n * 8 // 10))
    return weather, Series(steps, np.cumsum(steps, axis=0), ("log of the price",), 1, (960, 1280))


def read(path):
    """Return a table's columns by name, as text."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    return dict(zip(names, np.array(rows).T, strict=True))


def read_weather(path):
    """Return temperature and PM2.5 of Beijing, 2010-2014: 2013 is to choose by, 2014 is the test."""
    table = read(path)
    temperature, dew, pressure, smog, *others = (
        np.char.replace(table[name], "NA", "nan").astype(float)
        for name in ("TEMP", "DEWP", "PRES", "pm2.5", "Iws", "Is", "Ir")
    )
    winds = [table["cbwd"] == wind for wind in ("NW", "NE", "SE", "cv")]
    inputs = [temperature, dew, pressure, filled(smog), np.log(filled(smog) + 5), np.isnan(smog), *winds]
    inputs = np.column_stack([*inputs, *map(np.log1p, others), calendar(len(smog))])
    cuts = tuple(np.sum(table["year"] < year) for year in ("2013", "2014"))
    return Series(inputs, np.column_stack([temperature, smog]), ("temperature", "PM2.5"), 24, cuts)


def read_index(path):
    """Return the S&P 500, monthly since 1871: 1980 to 1999 are to choose by, the test is from 2000.

    Only prices and interest are read: earnings and consumer prices of a month are published later, and interpolated.
    """
    table = read(path)
    price, rate = np.log(table["SP500"].astype(float)), table["Long Interest Rate"].astype(float)
    price, rate = price[rate > 0], rate[rate > 0]  # the last months have none
    inputs = np.column_stack([np.diff(price, prepend=price[0]), rate, np.diff(rate, prepend=rate[0])])
    cuts = tuple(np.sum(table["Date"] < year) for year in ("1980", "2000"))
    return Series(inputs, price[:, None], ("log of the price",), 1, cuts)


def forecast(
    series, past, horizon, *, choose, shrink, hidden, dropout, lr, batch, budget, members, seed, precisions=()
):  # fmt: skip
    """Train, and return truth and forecasts, the baselines' first, by name: (N, horizon, K) of the test times."""
    begin, end = series.cuts if choose else (series.cuts[1], len(series.inputs))
    known = np.apply_along_axis(filled, 0, series.targets)
    now = np.arange(past - 1, end - horizon)  # the last times that windows see
    ahead = np.arange(1, horizon + 1)
    truth = series.targets[now[:, None] + ahead]
    guesses = {"persistence": np.repeat(known[now, None], horizon, axis=1)}
    if series.season > 1:
        guesses["seasonal"] = known[now[:, None] + (ahead - 1) % series.season + 1 - series.season]
    else:
        drift = np.diff(known[:begin], axis=0).mean(axis=0)
        guesses["with drift"] = guesses["persistence"] + drift * ahead[:, None]

    learned, tested = now + horizon < begin, now >= begin - 1  # what is learned is over when the test begins
    center, spread = series.inputs[:begin].mean(axis=0), series.inputs[:begin].std(axis=0)
    inputs = ((series.inputs - center) / spread).astype(np.float32)
    seen = inputs[now[:, None] - [lag for lag in LAGS if lag < past]].reshape(len(now), -1)
    change = (truth - guesses["persistence"]).reshape(len(now), -1)
    whole = learned & np.isfinite(change).all(axis=1)
    linear = Ridge(shrink).fit(seen[whole], change[whole]).predict(seen)
    scale = np.nanstd((change - linear)[learned], axis=0)
    windows = Dataset(Ragged.windows(inputs, past, now - past + 1), ((change - linear) / scale).astype(np.float32))
    source, test = Batches(windows.take(learned), batch), Batches(windows.take(tested), 512)

    models = []
    for member in range(members):
        rng = np.random.default_rng([seed, member])
        output = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, change.shape[1], rng=rng))
        model = nn.ManyToOne(fastrnn.LSTM(inputs.shape[1], hidden, rng=rng), output, loss="mse")
        nn.set_forget_bias(model.rnn)
        optimizer = optim.AdamW(model.params, lr, weight_decay=0.05)
        Trainer(model, optimizer, source, schedule=optim.warmup_cosine(), seed=seed + member, **budget).fit()
        models.append(model)
    guesses = {name: guess[tested] for name, guess in guesses.items()}
    parts = {"linear": 0, "model": np.mean([model.predict(test) for model in models], axis=0)}
    for name in precisions:
        frozen = [model.freeze(precision=name) for model in models]
        parts[f"model in {name}"] = np.mean([model.predict(test) for model in frozen], axis=0)
    for name, part in parts.items():
        guesses[name] = guesses["persistence"] + (linear[tested] + part * scale).reshape(-1, *truth.shape[1:])
    return truth[tested], guesses


def report(series, truth, guesses):
    """Print root mean squared errors; return those of the first target over all steps, by forecast."""
    for k, name in reversed(list(enumerate(series.names))):
        for what, steps in ((f"{truth.shape[1]} ahead", slice(-1, None)), ("mean of all steps", slice(None))):
            errors = {who: metrics.rmse(guess[:, steps, k], truth[:, steps, k]) for who, guess in guesses.items()}
            one, other, _, reached, *_ = errors.values()
            print(f"{name}, {what}: RMSE", *(f"{who} {error:.4g}," for who, error in errors.items()), end=" ")
            print(f"{reached / min(one, other) - 1:+.1%} to the better baseline")
    return errors


def draw(path, truth, guesses, name):
    """Draw forecasts of one target: (N, horizon). Bands hold 80 % of the errors of the first half of the test."""
    from matplotlib.figure import Figure

    horizon, half = truth.shape[1], len(truth) // 2
    ahead = np.arange(1, horizon + 1)
    low, high = np.nanquantile((truth - guesses["model"])[:half], (0.1, 0.9), axis=0)
    figure = Figure((9.6, 2.8), dpi=100, layout="constrained")
    for ax, k in zip(figure.subplots(1, 3, sharey=True), np.linspace(half + horizon, len(truth) - 1, 3), strict=True):
        k = int(k)
        forecast = guesses["model"][k]
        ax.plot(ahead - horizon, truth[k - horizon], color="0.5", label="the past")
        ax.plot(ahead, truth[k], color="black", label="what came")
        ax.plot(ahead, guesses["seasonal"][k], color="C1", linestyle=":", label="as the day before")
        ax.plot(ahead, forecast, color="C0", label="forecast")
        ax.fill_between(ahead, forecast + low, forecast + high, color="C0", alpha=0.25, label="80 % of errors")
        ax.axvline(0.5, color="0.8", linewidth=1)
        ax.set_xlabel("hours from now")
    figure.axes[0].set_ylabel(name)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=8)
    figure.savefig(path)
    print(f"drew {path}")


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="folder of the data sets")
@click.option("--quick", is_flag=True, help="small, generated data; fails below the bar")
@click.option("--choose", is_flag=True, help="test on the years before the test")
@click.option("--past", default=96, help="hours that the model sees of the weather")
@click.option("--hidden", default=48)
@click.option("--dropout", default=0.5)
@click.option("--lr", default=1e-3)
@click.option("--epochs", default=2)
@click.option("--members", default=3, help="models, whose mean is the forecast")
@click.option("--minutes", type=float, help="a budget for the weather, instead of epochs")
@click.option("--precisions", is_flag=True, help="also compare float32, bfloat16 and int8")
@click.option("--plot", type=click.Path(), help="where to draw forecasts of the temperature")
@click.option("--seed", default=0)
def main(data, quick, choose, past, hidden, dropout, lr, epochs, members, minutes, precisions, plot, seed):
    """Forecast the weather for 24 hours, and a stock index for 12 months."""
    if data is None:
        weather, index = generate(np.random.default_rng([seed, 1]), 8000 if quick else 40000)
    else:
        weather = read_weather(data / "time_series" / "pollution.csv.gz")
        index = read_index(data / "sp500_monthly" / "data.csv")
    if quick:
        past, hidden, epochs, lr, members = 48, 24, 4, 3e-3, 1
    budget = {"epochs": epochs} if minutes is None else {"seconds": 60 * minutes / members}
    options = {"choose": choose, "dropout": dropout, "lr": lr, "members": members, "seed": seed}
    options["precisions"] = ("bfloat16", "int8") if precisions else ()

    begin = time.perf_counter()
    results = forecast(weather, past, 24, shrink=1e3, hidden=hidden, batch=64, budget=budget, **options)
    errors = report(weather, *results)
    if plot:
        truth, guesses = results
        draw(plot, truth[:, :, 0], {who: guess[:, :, 0] for who, guess in guesses.items()}, weather.names[0])
    print(f"({time.perf_counter() - begin:.0f} s)")
    # Few months, and much noise: small models.
    results = forecast(index, 24, 12, shrink=1e5, hidden=16, batch=32, budget={"epochs": 5}, **options)
    report(index, *results)
    if quick and not errors["model"] < min(0.9 * errors["persistence"], 0.9 * errors["seasonal"], errors["linear"]):
        sys.exit("missed the bar: 10 % below the better of both baselines for the weather, and below the linear model")


if __name__ == "__main__":
    main()
